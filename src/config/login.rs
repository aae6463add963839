//! The settings of the login: where it is, or how the gateway's own page signs people in.
//! In: `[login]`. Out: their values. Errors: noted problems. I/O: the template's file.

use std::time::Duration;

use crate::backend::Further;
use crate::config::backend::BackendSettings;
use crate::config::read::{Field, Section};
use crate::config::session::web_url;
use crate::reply::LoginSettings;
use crate::sign_in::{self, Choice, Entry, FormSettings, Rate, Template};

/// Largest template, in bytes.
const TEMPLATE_CAP: usize = 256 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Redirect,
    Form,
}

/// Where people sign in; and how, where that is here.
pub(super) fn login(root: &Section<'_, '_>) -> Option<(LoginSettings, Option<FormSettings>)> {
    let section = root.section("login");
    let modes = [("redirect", Mode::Redirect), ("form", Mode::Form)];
    let mode = section.take("mode").map_or(Some(Mode::Redirect), |f| f.word(&modes));
    let url = match mode {
        Some(Mode::Redirect) => section.need("url", "\"https://id.example.com/login\""),
        Some(Mode::Form) | None => section.take("url"),
    };
    let parameter = section.take("parameter");
    let form = form(&section);
    for key in ["url", "parameter"] {
        if mode == Some(Mode::Form) && section.has(key) {
            section.problem(
                key,
                "is for mode = \"redirect\": here the gateway signs people in itself; remove it",
            );
        }
    }
    for key in ["template", "limit", "field"] {
        if mode == Some(Mode::Redirect) && section.has(key) {
            section
                .problem(key, "is for mode = \"form\": the login page of url knows nothing of it; remove it");
        }
    }
    section.finish();
    match mode? {
        Mode::Redirect => {
            let parameter = parameter.and_then(|f| f.text()).unwrap_or("redirect").to_owned();
            Some((LoginSettings::Redirect { url: web_url(&url?)?, parameter }, None))
        }
        Mode::Form => Some((LoginSettings::Form, Some(form?))),
    }
}

fn form(section: &Section<'_, '_>) -> Option<FormSettings> {
    let limit = section.section("limit");
    let rate = |key: &str, count: u32, secs: u64| match limit.take(key) {
        Some(field) => rate(&field),
        None => Rate::new(count, Duration::from_secs(secs)),
    };
    let (per_client, per_user) = (rate("client", 30, 60), rate("user", 10, 600));
    limit.finish();
    let items = section.take("field").map(|f| f.items()).unwrap_or_default();
    let fields: Vec<Option<sign_in::Field>> = items.iter().map(|item| field(&item.section())).collect();
    let fields: Option<Vec<sign_in::Field>> = fields.into_iter().collect();
    for (n, field) in fields.iter().flatten().enumerate() {
        if fields.iter().flatten().take(n).any(|earlier| earlier.name == field.name) {
            section.problem(
                "field",
                format!("{} is there twice; give each field one [[login.field]]", field.name),
            );
        }
    }
    let template = match section.take("template") {
        None => Some(Template::default()),
        Some(file) => template(&file),
    };
    let (fields, template) = (fields?, template?);
    let shown = fields.iter().any(|field| !matches!(field.entry, Entry::Fixed(_)));
    if shown && !template.has_fields() {
        section.problem("template", "has no {{fields}}: the inputs of [[login.field]] have to stand there");
    }
    Some(FormSettings { fields, template, per_client: per_client?, per_user: per_user? })
}

/// Whether the backend is sent what people are asked for, and asked for what it wants.
pub(super) fn fields_fit(root: &Section<'_, '_>, form: &FormSettings, backend: &BackendSettings) {
    let login = root.section("login");
    let id = backend.id();
    let items = login.take("field").map(|f| f.items()).unwrap_or_default();
    for (field, item) in form.fields.iter().zip(&items) {
        let name = field.name.as_str();
        let what = match backend.further() {
            Further::Only(names) if names.contains(&name) => continue,
            Further::Only([]) => {
                format!("{name} is never sent: a sign-in at {id} carries name and password alone; remove it")
            }
            Further::Only(names) => {
                let names = names.join(", ");
                format!(
                    "{name} is never sent: a sign-in at {id} carries, beside name and password, {names}; remove it"
                )
            }
            Further::AllBut(taken) if taken.contains(&name) => {
                format!("{name} is what the user's name or the password is sent as; remove it")
            }
            Further::AllBut(_) => continue,
        };
        item.section().problem("name", what);
    }
    for name in backend.needs_further() {
        if !form.fields.iter().any(|field| field.name == name) {
            let what = format!(
                "lacks {name}, without which {id} signs nobody in; write a [[login.field]] of that name"
            );
            login.problem("field", what);
        }
    }
}

/// A rate, such as `"10 per 1m"`.
fn rate(field: &Field<'_, '_>) -> Option<Rate> {
    let text = field.text()?;
    let rate = text.split_once(" per ").and_then(|(count, span)| {
        Rate::new(count.trim().parse().ok()?, humantime::parse_duration(span.trim()).ok()?)
    });
    if rate.is_none() {
        field.problem(format!(
            "\"{text}\" is no rate; write a number from 1 and whole seconds, such as \"10 per 1m\""
        ));
    }
    rate
}

fn field(section: &Section<'_, '_>) -> Option<sign_in::Field> {
    let name = section.need("name", "\"tenantId\"").and_then(|f| filled(&f));
    let label = section.take("label");
    let value = section.take("value");
    let options = section.take("option");
    let choices = options.as_ref().map(choices);
    section.finish();
    let entry = match (label, value, choices) {
        (None, Some(value), None) => filled(&value).map(Entry::Fixed),
        (Some(label), value, None) => {
            let preset = value.and_then(|f| f.text()).unwrap_or_default().to_owned();
            filled(&label).map(|label| Entry::Typed { label, preset })
        }
        (Some(label), None, Some(choices)) => {
            let label = filled(&label);
            choices.zip(label).map(|(choices, label)| Entry::Chosen { label, choices })
        }
        (None, None, _) => {
            section.problem(
                "label",
                "is missing: write label for what people enter, or value for what is always sent",
            );
            None
        }
        (_, Some(_), Some(_)) => {
            section.problem("value", "and option contradict each other; the first option is chosen at first");
            None
        }
    };
    Some(sign_in::Field { name: name?, entry: entry? })
}

fn choices(field: &Field<'_, '_>) -> Option<Vec<Choice>> {
    let choice = |item: &Field<'_, '_>| {
        let section = item.section();
        let value = section.need("value", "\"CITIZEN\"").and_then(|f| filled(&f));
        let label = section.take("label").map(|f| filled(&f));
        section.finish();
        let value = value?;
        Some(Choice { label: label.unwrap_or_else(|| Some(value.clone()))?, value })
    };
    let choices: Vec<Option<Choice>> = field.items().iter().map(choice).collect();
    if choices.is_empty() {
        field.problem("offers nothing to choose; write for example option = [{ value = \"CITIZEN\", label = \"Citizen\" }]");
        return None;
    }
    choices.into_iter().collect()
}

/// A text that is not empty, in one line.
fn filled(field: &Field<'_, '_>) -> Option<String> {
    let text = field.text()?.trim();
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        field.problem("must be a text of one line, not empty and not longer than 256 bytes");
        return None;
    }
    Some(text.to_owned())
}

fn template(field: &Field<'_, '_>) -> Option<Template> {
    let path = field.text()?;
    let path = path.strip_prefix("file:").unwrap_or(path);
    field.reads(path);
    let html = match std::fs::read_to_string(path) {
        Ok(html) if html.len() <= TEMPLATE_CAP => html,
        Ok(_) => {
            field.problem(format!("{path} is larger than 256 KiB; keep the page small"));
            return None;
        }
        Err(error) => {
            field.problem(format!("{path} cannot be read ({error}); create it as HTML in UTF-8"));
            return None;
        }
    };
    match Template::parse(&html) {
        Ok(template) => Some(template),
        Err(faults) => {
            for fault in faults {
                field.problem(format!("{path}: {fault}"));
            }
            None
        }
    }
}
