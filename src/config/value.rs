//! Values with units, secrets and addresses, as they are written in settings.
//! In: text. Out: typed values. Errors: a text that says what to write instead. I/O: files and environment, for secrets.

use std::time::Duration;

use crate::config::read::Field;
use crate::secret::Secret;

/// A duration with its unit, such as `"5s"`.
pub(super) fn duration(field: &Field<'_, '_>) -> Option<Duration> {
    let text = field.text()?;
    match humantime::parse_duration(text) {
        Ok(span) => Some(span),
        Err(_) => {
            field.problem(format!("\"{text}\" is no duration; write a number with its unit, such as \"5s\", \"250ms\" or \"24h\""));
            None
        }
    }
}

/// A size with its unit, such as `"64KiB"`.
pub(super) fn size(field: &Field<'_, '_>) -> Option<u64> {
    let text = field.text()?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim() {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1_u64 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f));
    if bytes.is_none() {
        field.problem(format!(
            "\"{text}\" is no size; write a number with its unit, such as \"64KiB\" or \"10MiB\""
        ));
    }
    bytes
}

/// A secret: `env:NAME`, `file:PATH` (without the line end that editors leave), or the text itself.
pub(super) fn secret(field: &Field<'_, '_>) -> Option<Secret<String>> {
    let text = field.text()?;
    let read = if let Some(name) = text.strip_prefix("env:") {
        variable(name).ok_or_else(|| format!("the environment has no variable {name}; set it, or use file:"))
    } else if let Some(path) = text.strip_prefix("file:") {
        field.reads(path);
        std::fs::read_to_string(path)
            .map(|content| content.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| {
                format!("{path} cannot be read ({error}); create it, readable by this user only")
            })
    } else if text.starts_with(['/', '.']) {
        Err("looks like a path; write \"file:\" before it, or another secret where it is none".to_owned())
    } else {
        Ok(text.to_owned())
    };
    match read {
        Ok(value) if value.is_empty() => {
            field.problem("is empty; write a secret, or where it is: env:NAME or file:PATH");
            None
        }
        Ok(value) => Some(Secret::new(value)),
        Err(what) => {
            field.problem(what);
            None
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
