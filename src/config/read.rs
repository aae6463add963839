//! Reads a TOML tree key by key and collects every problem with its place, instead of stopping at the first.
//! In: TOML text. Out: values, [`Problem`]s. Errors: none; a problem is noted and the reading goes on. I/O: none.
//! Source: TOML 1.0.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

/// Something in a settings file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key's path, such as `session.renew.timeout`.
    pub path: String,
    /// What is wrong and what to do. Never a secret's value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "line {}: {}", self.line, self.what)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.path, self.what)
        }
    }
}

/// A file being read.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
    known: RefCell<BTreeSet<String>>,
    files: RefCell<BTreeSet<PathBuf>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, problems: RefCell::default(), known: RefCell::default(), files: RefCell::default() }
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    /// Every further file whose content became part of the settings.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().iter().cloned().collect()
    }

    /// Notes a problem.
    pub(crate) fn problem(&self, at: usize, path: &str, what: impl Into<String>) {
        let line = self.line(at);
        self.problems.borrow_mut().push(Problem { line, path: path.to_owned(), what: what.into() });
    }

    /// Every problem so far, in the order of the file.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.borrow().clone();
        problems.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        problems
    }

    /// Every key that was asked for, as dotted paths with `[]` for array items and `*` for free names.
    pub(crate) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// Parses the file. Syntax errors are problems, too.
    pub(crate) fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.problem(at, "", format!("{}; mend the TOML here first", error.message()));
        }
        table
    }
}

/// One table of the file, perhaps absent.
#[derive(Debug)]
pub(crate) struct Section<'s, 'a> {
    source: &'s Source<'a>,
    table: Option<&'s DeTable<'a>>,
    path: String,
    /// The path with `[]` for the numbers of array items: the same for all of them.
    shape: String,
    start: usize,
    asked: RefCell<BTreeSet<String>>,
}

/// One value of the file.
#[derive(Clone, Debug)]
pub(crate) struct Field<'s, 'a> {
    source: &'s Source<'a>,
    value: &'s DeValue<'a>,
    path: String,
    shape: String,
    span: Range<usize>,
}

impl<'s, 'a> Section<'s, 'a> {
    pub(crate) fn root(source: &'s Source<'a>, table: &'s Spanned<DeTable<'a>>) -> Self {
        Self {
            source,
            table: Some(table.get_ref()),
            path: String::new(),
            shape: String::new(),
            start: 0,
            asked: RefCell::default(),
        }
    }

    /// The value under `key`, if it is there.
    pub(crate) fn take(&self, key: &str) -> Option<Field<'s, 'a>> {
        self.asked.borrow_mut().insert(key.to_owned());
        let shape = join(&self.shape, key);
        self.source.known.borrow_mut().insert(shape.clone());
        let value = self.table?.iter().find(|(name, _)| name.get_ref().as_ref() == key)?.1;
        Some(Field {
            source: self.source,
            value: value.get_ref(),
            path: join(&self.path, key),
            shape,
            span: value.span(),
        })
    }

    /// The value under `key`; its absence is a problem.
    pub(crate) fn need(&self, key: &str, example: &str) -> Option<Field<'s, 'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.problem(key, format!("is missing; write for example {key} = {example}"));
        }
        field
    }

    /// The table under `key`, present or not.
    pub(crate) fn section(&self, key: &str) -> Self {
        match self.take(key) {
            Some(field) => field.section(),
            None => Self {
                source: self.source,
                table: None,
                path: join(&self.path, key),
                shape: join(&self.shape, key),
                start: self.start,
                asked: RefCell::default(),
            },
        }
    }

    /// Every key with its value, for tables whose keys are free.
    pub(crate) fn entries(&self) -> Vec<(String, Field<'s, 'a>)> {
        self.source.known.borrow_mut().insert(join(&self.shape, "*"));
        let entry = |(name, value): (&'s Spanned<std::borrow::Cow<'a, str>>, &'s Spanned<DeValue<'a>>)| {
            let key = name.get_ref().to_string();
            self.asked.borrow_mut().insert(key.clone());
            let field = Field {
                source: self.source,
                value: value.get_ref(),
                path: join(&self.path, &key),
                shape: join(&self.shape, "*"),
                span: value.span(),
            };
            (key, field)
        };
        self.table.map(|table| table.iter().map(entry).collect()).unwrap_or_default()
    }

    /// Where `key` stands in the file; where it is missing, where its table does.
    pub(crate) fn place(&self, key: &str) -> usize {
        let at = self.table.and_then(|table| table.iter().find(|(name, _)| name.get_ref().as_ref() == key));
        at.map_or(self.start, |(_, value)| value.span().start)
    }

    /// The line of `key`, from 1; where it is missing, of its table.
    pub(crate) fn line(&self, key: &str) -> usize {
        self.source.line(self.place(key))
    }

    /// Whether `key` stands in the file.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref().as_ref() == key))
    }

    /// Notes a problem with `key` of this table.
    pub(crate) fn problem(&self, key: &str, what: impl Into<String>) {
        self.source.problem(self.place(key), &join(&self.path, key), what);
    }

    /// Notes every key that nobody asked for.
    pub(crate) fn finish(&self) {
        let asked = self.asked.borrow();
        for (name, _) in self.table.into_iter().flat_map(|table| table.iter()) {
            let key = name.get_ref().as_ref();
            if !asked.contains(key) {
                let near = asked
                    .iter()
                    .min_by_key(|known| distance(known, key))
                    .filter(|known| distance(known, key) <= 3);
                let what = match near {
                    Some(near) => format!("is no setting; did you mean {near}?"),
                    None if asked.is_empty() => "is no setting; remove it".to_owned(),
                    None => {
                        let known: Vec<_> = asked.iter().map(String::as_str).collect();
                        format!("is no setting; here are {}", known.join(", "))
                    }
                };
                self.source.problem(name.span().start, &join(&self.path, key), what);
            }
        }
    }
}

impl<'s, 'a> Field<'s, 'a> {
    /// Notes that the content of this file is part of the settings.
    pub(crate) fn reads(&self, path: &str) {
        self.source.files.borrow_mut().insert(Path::new(path).to_owned());
    }

    /// Notes a problem with this value.
    pub(crate) fn problem(&self, what: impl Into<String>) {
        self.source.problem(self.span.start, &self.path, what);
    }

    /// Whether the value is a text.
    pub(crate) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// The value's path, such as `session.token.key[1]`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The value as text.
    pub(crate) fn text(&self) -> Option<&'s str> {
        self.value.as_str().or_else(|| self.wrong("a text in quotes"))
    }

    /// The value as yes or no.
    pub(crate) fn flag(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong("true or false"))
    }

    /// The value as a whole number from 0.
    pub(crate) fn number(&self) -> Option<u64> {
        let number = self.value.as_integer().or_else(|| self.wrong("a whole number"))?;
        let read = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok();
        if read.is_none() {
            self.problem("must be a whole number from 0");
        }
        read
    }

    /// The items of an array.
    pub(crate) fn items(&self) -> Vec<Self> {
        let Some(items) = self.value.as_array().or_else(|| self.wrong("a list in brackets")) else {
            return Vec::new();
        };
        let item = |(n, item): (usize, &'s Spanned<DeValue<'a>>)| Self {
            source: self.source,
            value: item.get_ref(),
            path: format!("{}[{}]", self.path, n + 1),
            shape: format!("{}[]", self.shape),
            span: item.span(),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// A list of texts, or one text for a list of one.
    pub(crate) fn texts(&self) -> Vec<&'s str> {
        self.one_or_many().iter().filter_map(Self::text).collect()
    }

    /// A list, or one value for a list of one.
    pub(crate) fn one_or_many(&self) -> Vec<Self> {
        if self.value.is_array() { self.items() } else { vec![self.clone()] }
    }

    /// The value as a table.
    pub(crate) fn section(&self) -> Section<'s, 'a> {
        let table = self.value.as_table().or_else(|| self.wrong("a table"));
        Section {
            source: self.source,
            table,
            path: self.path.clone(),
            shape: self.shape.clone(),
            start: self.span.start,
            asked: RefCell::default(),
        }
    }

    /// One of the words offered.
    pub(crate) fn word<T: Copy>(&self, offered: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = offered.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<_> = offered.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.problem(format!("\"{text}\" is not known here; write {}", words.join(" or ")));
        }
        found
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let found = self.value.type_str();
        self.problem(format!("is {} {found}; write {wanted}", article(found)));
        None
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Levenshtein distance: how many letters have to change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (cb, pair) in b.iter().zip(row.windows(2)) {
            let (diagonal, above) = (pair.first().copied(), pair.get(1).copied());
            let left = next.last().copied();
            let cost = usize::from(ca != *cb);
            let best = [diagonal.map(|d| d + cost), above.map(|d| d + 1), left.map(|d| d + 1)];
            next.push(best.into_iter().flatten().min().unwrap_or(0));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl Fn(&Section<'_, '_>)) -> Vec<String> {
        let source = Source::new(text);
        let table = source.parse();
        let root = Section::root(&source, &table);
        read(&root);
        root.finish();
        source.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_path_and_line() {
        let text = "a = 1\n[b]\nc = \"x\"\ntimeot = 3\n\n[[d]]\ne = [1, \"y\"]\n";
        let told = problems(text, |root| {
            root.take("a").expect("there").text();
            let b = root.section("b");
            b.take("c").expect("there").number();
            b.take("timeout");
            b.need("z", "\"5s\"");
            b.finish();
            for item in root.take("d").expect("there").items() {
                let d = item.section();
                d.take("e").expect("there").texts();
                d.finish();
            }
        });
        assert_eq!(
            told,
            [
                "line 1: a: is an integer; write a text in quotes",
                "line 2: b.z: is missing; write for example z = \"5s\"",
                "line 3: b.c: is a string; write a whole number",
                "line 4: b.timeot: is no setting; did you mean timeout?",
                "line 7: d[1].e[1]: is an integer; write a text in quotes",
            ]
        );
    }

    #[test]
    fn a_syntax_error_is_told_with_its_line() {
        let told = problems("a = 1\nb = = 2\n", |root| {
            root.take("a");
            root.take("b");
        });
        assert!(told.iter().any(|t| t.starts_with("line 2: ")), "{told:?}");
    }
}
