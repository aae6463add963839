//! The page with its form: works without scripts, names nothing that it was not told, shows no password.
//! In: texts of anybody. Out: HTML in which they are text, and the policy it is shown under. Errors: none. I/O: none.
//! Source: WCAG 2.2 (3.3.1, 3.3.2, 1.3.5, 4.1.3); CSP 3.

use http::HeaderValue;

use crate::sign_in::form::{Entry, FURTHER, Field};
use crate::sign_in::template::{Slot, Styles, Template};
use crate::text::html_escaped;

/// What a page shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The host that is signed in to.
    pub site: &'a str,
    /// Where the form is sent.
    pub action: &'a str,
    /// By which it is known as ours.
    pub form: &'a str,
    /// The name that was typed before, or nothing.
    pub user: &'a str,
    /// What else was typed before.
    pub further: &'a [(String, String)],
    /// What went wrong, or nothing.
    pub alert: &'a str,
    /// Names the request in logs.
    pub request_id: &'a str,
}

/// The page. Every text is escaped for the place where it stands: between tags, or in a quoted attribute.
pub(super) fn page(template: &Template, fields: &[Field], shown: &Shown<'_>) -> String {
    let wrong = !shown.alert.is_empty();
    // Whoever typed the name already goes on with the password.
    let named = !shown.user.is_empty();
    let when = |condition: bool, text: &str| if condition { text.to_owned() } else { String::new() };
    template.fill(|slot| match slot {
        Slot::Title => when(wrong, "Error: ") + "Sign in",
        Slot::Site => html_escaped(shown.site),
        Slot::Alert if wrong => {
            format!("<p id=\"alert\" class=\"alert\" role=\"alert\">{}</p>", html_escaped(shown.alert))
        }
        Slot::Alert => String::new(),
        Slot::Action => html_escaped(shown.action),
        Slot::Form => html_escaped(shown.form),
        Slot::User => html_escaped(shown.user),
        Slot::Fields => fields.iter().map(|field| input(field, shown)).collect(),
        Slot::FocusUser => when(!named, "autofocus"),
        Slot::FocusPassword => when(named, "autofocus"),
        Slot::Invalid => when(wrong, "aria-describedby=\"alert\""),
        Slot::RequestId => html_escaped(shown.request_id),
    })
}

fn input(field: &Field, shown: &Shown<'_>) -> String {
    let typed = shown.further.iter().find(|(name, _)| *name == field.name).map(|(_, value)| value.as_str());
    let name = html_escaped(&format!("{FURTHER}{}", field.name));
    let labelled = |label: &str| format!("<label for=\"{name}\">{}</label>", html_escaped(label));
    match &field.entry {
        Entry::Fixed(_) => String::new(),
        Entry::Typed { label, preset } => {
            let value = html_escaped(typed.unwrap_or(preset));
            let label = labelled(label);
            format!(
                "{label}<input id=\"{name}\" name=\"{name}\" type=\"text\" value=\"{value}\" maxlength=\"256\" required>"
            )
        }
        Entry::Chosen { label, choices } => {
            let options: String = choices
                .iter()
                .map(|choice| {
                    let chosen = if typed == Some(choice.value.as_str()) { " selected" } else { "" };
                    let (value, label) = (html_escaped(&choice.value), html_escaped(&choice.label));
                    format!("<option value=\"{value}\"{chosen}>{label}</option>")
                })
                .collect();
            format!("{}<select id=\"{name}\" name=\"{name}\" required>{options}</select>", labelled(label))
        }
    }
}

/// The policy under which the page is shown. Browsers hold the redirects after a form against `form-action` too, so the
/// origins that people may be sent on to are named.
pub(super) fn policy<'a>(template: &Template, beside: impl Iterator<Item = &'a str>) -> HeaderValue {
    let sources = match &template.styles {
        Styles::Hash(hash) => format!("style-src {hash}"),
        Styles::OwnPage => {
            "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'".to_owned()
        }
    };
    let mut policy =
        format!("default-src 'none'; {sources}; base-uri 'none'; frame-ancestors 'none'; form-action 'self'");
    for origin in beside {
        policy.push(' ');
        policy.push_str(origin);
    }
    HeaderValue::try_from(policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'; form-action 'self'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign_in::form::Choice;

    const HOSTILE: &str = "\"><script>alert('1')</script>{{user}}&amp;";

    fn fields() -> Vec<Field> {
        let choices = vec![
            Choice { value: "A".into(), label: "Ann <a>".into() },
            Choice { value: HOSTILE.into(), label: HOSTILE.into() },
        ];
        vec![
            Field { name: "hidden".into(), entry: Entry::Fixed("not-shown".into()) },
            Field {
                name: "t\"x".into(),
                entry: Entry::Typed { label: HOSTILE.into(), preset: HOSTILE.into() },
            },
            Field { name: "c".into(), entry: Entry::Chosen { label: "C".into(), choices } },
        ]
    }

    fn shown<'a>(text: &'a str, further: &'a [(String, String)]) -> Shown<'a> {
        Shown { site: text, action: text, form: text, user: text, further, alert: text, request_id: text }
    }

    #[test]
    fn nothing_that_anybody_wrote_is_markup() {
        let further = [("t\"x".to_owned(), HOSTILE.to_owned()), ("c".to_owned(), HOSTILE.to_owned())];
        let page = page(&Template::default(), &fields(), &shown(HOSTILE, &further));
        assert!(
            !page.contains("<script") && !page.contains("alert('1')") && !page.contains("not-shown"),
            "{page}"
        );
        assert!(page.contains("name=\"further.t&quot;x\""), "{page}");
        assert!(page.matches("&quot;&gt;&lt;script&gt;").count() >= 9, "{page}");
        assert!(page.contains("{{user}}&amp;amp;"), "text is not read as a template: {page}");
        assert!(page.contains("&amp;amp;\" selected>"), "what was chosen stays chosen: {page}");
    }

    #[test]
    fn the_form_says_what_it_wants_to_people_and_to_machines() {
        let page = page(&Template::default(), &[], &shown("", &[]));
        for part in [
            "<html lang=\"en\">",
            "<title>Sign in",
            "<label for=\"user\">",
            "<label for=\"password\">",
            "id=\"user\"",
            "id=\"password\"",
            "autocomplete=\"username\"",
            "autocomplete=\"current-password\"",
            "width=device-width",
        ] {
            assert!(page.contains(part), "{part} in\n{page}");
        }
        assert_eq!(page.matches("autofocus").count(), 1);
        assert!(!page.contains("role=\"alert\"") && !page.contains("aria-describedby"));
    }

    #[test]
    fn an_error_is_told_and_the_name_kept() {
        let told = Shown { alert: "No <luck>.", user: "asha", ..shown("", &[]) };
        let page = page(&Template::default(), &[], &told);
        assert!(
            page.contains("<p id=\"alert\" class=\"alert\" role=\"alert\">No &lt;luck&gt;.</p>"),
            "{page}"
        );
        assert!(page.contains("<title>Error: Sign in") && page.contains("value=\"asha\""));
        assert!(page.split("id=\"password\"").nth(1).is_some_and(|rest| {
            rest.split('>')
                .next()
                .is_some_and(|tag| tag.contains("autofocus") && tag.contains("aria-describedby"))
        }));
    }

    #[test]
    fn the_policy_lets_in_nothing_but_the_pages_own_style() {
        let built_in = policy(&Template::default(), ["https://b.example"].into_iter());
        let text = built_in.to_str().expect("text");
        assert!(
            text.starts_with("default-src 'none'; style-src 'sha256-") && !text.contains("unsafe"),
            "{text}"
        );
        assert!(text.ends_with("frame-ancestors 'none'; form-action 'self' https://b.example"), "{text}");
    }
}
