//! What a sent form brings.
//! In: a body, the fields that were shown. Out: [`Submission`]. Errors: [`FormFault`]. I/O: none.
//! Source: WHATWG URL §5.1 (`application/x-www-form-urlencoded`).

use percent_encoding::percent_decode;

use crate::secret::Secret;

/// Name of the input with the user's name.
pub(super) const USER: &str = "user";
/// Name of the input with the password.
pub(super) const PASSWORD: &str = "password";
/// Name of the hidden input by which a form is known as ours.
pub(super) const FORM: &str = "form";
/// Begins the name of an input for anything else that the backend asks for: no such name can be one of the above.
pub(super) const FURTHER: &str = "further.";

/// Longest name, in bytes.
const USER_CAP: usize = 256;
/// Longest password, in bytes.
const PASSWORD_CAP: usize = 1024;
/// Longest value of anything else, in bytes.
const FURTHER_CAP: usize = 256;

/// What the session backend asks for beside name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name there.
    pub name: String,
    /// Where its value comes from.
    pub entry: Entry,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From the settings; nobody sees it.
    Fixed(String),
    /// From an input of the form.
    Typed {
        /// What stands beside it.
        label: String,
        /// What stands in it at first.
        preset: String,
    },
    /// From a list in the form.
    Chosen {
        /// What stands beside it.
        label: String,
        /// What can be chosen; the first is, at first.
        choices: Vec<Choice>,
    },
}

/// One of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What the backend gets.
    pub value: String,
    /// What people read.
    pub label: String,
}

/// What a form brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Submission {
    /// The user's name, without blanks around it.
    pub user: String,
    /// The password, as it was typed.
    pub password: Secret<String>,
    /// By which the form is known as ours.
    pub form: String,
    /// Everything else that the backend asks for, by its name there.
    pub further: Vec<(String, String)>,
}

impl Submission {
    /// Whether nothing is empty.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let values = self.further.iter().map(|(_, value)| value);
        !self.password.expose().is_empty() && std::iter::once(&self.user).chain(values).all(|v| !v.is_empty())
    }
}

/// Why no form of ours brought this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormFault {
    /// It is not what a form sends, or no UTF-8, or a name holds controls.
    #[error("the form cannot be read")]
    Unreadable,
    /// A field came twice: two readers could take different ones.
    #[error("a field came twice")]
    Twice,
    /// A value is longer than any form of ours lets it be.
    #[error("a value is too long")]
    TooLong,
    /// A value that is not on the list.
    #[error("a value is none of those to choose from")]
    NotOffered,
}

/// Reads a form's body. Fields that were not asked for are not looked at.
pub(super) fn read(body: &[u8], fields: &[Field]) -> Result<Submission, FormFault> {
    let mut pairs = Vec::new();
    for part in body.split(|byte| *byte == b'&').filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_at_checked(part.iter().position(|b| *b == b'=').unwrap_or(part.len()))
            .unwrap_or((part, &[]));
        pairs.push((decoded(name)?, decoded(value.get(1..).unwrap_or_default())?));
    }
    let only = |name: &str, cap: usize| {
        let mut values = pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_default();
        match values.next() {
            Some(_) => Err(FormFault::Twice),
            None if value.len() > cap => Err(FormFault::TooLong),
            None => Ok(value),
        }
    };
    let further = fields.iter().map(|field| {
        let sent = || only(&format!("{FURTHER}{}", field.name), FURTHER_CAP);
        let value = match &field.entry {
            Entry::Fixed(value) => value.clone(),
            Entry::Typed { .. } => plain(sent()?)?,
            Entry::Chosen { choices, .. } => {
                let sent = sent()?;
                let choice = choices.iter().find(|choice| choice.value == sent);
                choice.map(|choice| choice.value.clone()).ok_or(FormFault::NotOffered)?
            }
        };
        Ok((field.name.clone(), value))
    });
    Ok(Submission {
        user: plain(only(USER, USER_CAP)?)?,
        password: Secret::new(only(PASSWORD, PASSWORD_CAP)?.to_owned()),
        form: only(FORM, PASSWORD_CAP)?.to_owned(),
        further: further.collect::<Result<_, _>>()?,
    })
}

fn decoded(text: &[u8]) -> Result<String, FormFault> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    String::from_utf8(percent_decode(&spaced).collect()).map_err(|_not_utf8| FormFault::Unreadable)
}

/// A text in one line, without blanks around it.
fn plain(text: &str) -> Result<String, FormFault> {
    let text = text.trim();
    if text.chars().any(char::is_control) { Err(FormFault::Unreadable) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields() -> Vec<Field> {
        let choice = |text: &str| Choice { value: text.into(), label: text.to_uppercase() };
        vec![
            Field { name: "tenantId".into(), entry: Entry::Fixed("pb".into()) },
            Field {
                name: "userType".into(),
                entry: Entry::Chosen { label: "As".into(), choices: vec![choice("a"), choice("b")] },
            },
            Field {
                name: "city".into(),
                entry: Entry::Typed { label: "City".into(), preset: String::new() },
            },
        ]
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let body = b"user=+Ana%20Mar%C3%ADa+&password=+p%26%2B%3d%00+&form=x-_&further.userType=b&further.city=Lud+hiana&else=1";
        let read = read(body, &fields()).expect("a form");
        assert_eq!((read.user.as_str(), read.password.expose().as_str()), ("Ana Mar\u{ed}a", " p&+=\0 "));
        assert_eq!(read.form, "x-_");
        let further: Vec<_> =
            read.further.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(further, [("tenantId", "pb"), ("userType", "b"), ("city", "Lud hiana")]);
        assert!(read.is_complete());
    }

    #[test]
    fn what_no_form_sends_is_refused() {
        let long = |name: &str, n: usize| format!("{name}={}", "x".repeat(n));
        for (body, wanted) in [
            ("user=a&user=a", FormFault::Twice),
            ("password=a&user=a&password=b", FormFault::Twice),
            ("user=a&%75ser=b", FormFault::Twice),
            ("form=a&form=", FormFault::Twice),
            ("user=%ff", FormFault::Unreadable),
            ("%ff=a", FormFault::Unreadable),
            ("user=a%00b", FormFault::Unreadable),
            ("user=a%0d%0ab", FormFault::Unreadable),
            (&long("user", 257), FormFault::TooLong),
            (&long("password", 1025), FormFault::TooLong),
            (&long("form", 1025), FormFault::TooLong),
        ] {
            assert_eq!(read(body.as_bytes(), &[]), Err(wanted), "{body}");
        }
        for (body, wanted) in [
            ("further.city=x", FormFault::NotOffered),
            ("further.userType=c", FormFault::NotOffered),
            ("further.userType=a&further.userType=a", FormFault::Twice),
            ("further.userType=a&further.city=%1b", FormFault::Unreadable),
        ] {
            assert_eq!(read(body.as_bytes(), &fields()), Err(wanted), "{body}");
        }
    }

    #[test]
    fn a_fixed_value_is_nobodys_to_change() {
        let body = b"further.userType=a&further.city=x&further.tenantId=other&tenantId=other";
        let read = read(body, &fields()).expect("a form");
        assert_eq!(read.further.first(), Some(&("tenantId".to_owned(), "pb".to_owned())));
    }

    #[test]
    fn what_is_left_empty_is_not_sent_on() {
        for body in ["", "user=a", "password=a", "user=+&password=a", "user=a&password=", "&&=&user"] {
            assert!(!read(body.as_bytes(), &[]).expect("a form").is_complete(), "{body}");
        }
        let body = b"user=a&password=b&further.userType=a&further.city=";
        assert!(!read(body, &fields()).expect("a form").is_complete());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = read(&body, &fields());
        }

        #[test]
        fn what_is_typed_arrives(user in "[^\\p{C}\\s]{1,20}", password in "\\PC{1,40}") {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair(USER, &user).append_pair(PASSWORD, &password);
            let read = read(form.finish().as_bytes(), &[]).expect("a form");
            prop_assert_eq!(read.user, user);
            prop_assert_eq!(read.password.expose(), &password);
        }
    }
}
