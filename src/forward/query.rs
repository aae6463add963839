//! Takes the gateway's own parameters out of a query and leaves the rest as it was sent.
//! In: a query, names. Out: the query without them. Errors: none. I/O: none.
//! Source: WHATWG URL §5.1 (urlencoded parsing); what PHP, `qs` of Node.js, Rack and urllib of Python do beside it.

use std::borrow::Cow;

use crate::forward::names::NameSet;

/// What has to happen to a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CleanQuery {
    /// Nothing.
    AsSent,
    /// It becomes this one; empty: there is none left.
    Changed(String),
}

/// Removes every parameter that any reader would take for one of `owned`. `&` parts parameters for all readers; `;` does for
/// some, and to others it is a part of a name.
pub(super) fn clean_query(query: &str, owned: &NameSet) -> CleanQuery {
    if owned.is_empty() || !query.split('&').any(|piece| is_owned_somewhere(piece, owned)) {
        return CleanQuery::AsSent;
    }
    let mut kept = String::with_capacity(query.len());
    // The separator before the next piece that stays: `&` if any of those it replaces is one.
    let mut before = None;
    let pieces = query.split_inclusive('&').flat_map(|piece| parts(piece, owned));
    for (text, after, stays) in pieces {
        if !stays {
            if after == Some('&') {
                before = before.map(|_| '&');
            }
            continue;
        }
        kept.extend(before);
        kept.push_str(text);
        before = after;
    }
    if kept.is_empty() || before.is_none() {
        return CleanQuery::Changed(kept);
    }
    // Removed pieces at the end leave the separator before them behind; one that ended the query itself stays.
    if query.ends_with(['&', ';']) {
        kept.extend(before);
    }
    CleanQuery::Changed(kept)
}

/// What stands between two `;` of a piece up to `&`, each with the separator after it, and whether it stays.
fn parts<'q>(piece: &'q str, owned: &NameSet) -> Vec<(&'q str, Option<char>, bool)> {
    let (whole, last) = piece.strip_suffix('&').map_or((piece, None), |whole| (whole, Some('&')));
    let mut parts: Vec<(&str, Option<char>, bool)> = whole
        .split_inclusive(';')
        .map(|part| part.strip_suffix(';').map_or((part, last), |text| (text, Some(';'))))
        .map(|(text, after)| (text, after, !is_owned(text, owned)))
        .collect();
    // What ends with `;`, or is empty, has an empty part before `&`.
    if last.is_some() && parts.last().is_none_or(|(_, after, _)| *after != last) {
        parts.push(("", last, true));
    }
    // What is left of it may still be ours to those who take `;` for a part of the name.
    let separator = |after| if after == Some(';') { ";" } else { "" };
    let left =
        parts.iter().filter(|(_, _, stays)| *stays).flat_map(|(text, after, _)| [*text, separator(*after)]);
    let left: String = left.collect();
    if left.contains(';') && is_owned(&left, owned) {
        parts.iter_mut().for_each(|(_, _, stays)| *stays = false);
    }
    parts
}

/// Whether any reader finds an owned parameter between two `&`.
fn is_owned_somewhere(piece: &str, owned: &NameSet) -> bool {
    is_owned(piece, owned) || (piece.contains(';') && piece.split(';').any(|part| is_owned(part, owned)))
}

/// Whether any reader takes this piece for an owned parameter.
fn is_owned(piece: &str, owned: &NameSet) -> bool {
    let decoded = decode(piece.split('=').next().unwrap_or_default().as_bytes());
    // PHP ends a name at NUL; to others it is a byte of the name like any other.
    let ended = decoded.split(|b| *b == 0).next().unwrap_or_default();
    is_owned_name(ended, owned) || (ended.len() < decoded.len() && is_owned_name(&decoded, owned))
}

fn is_owned_name(name: &[u8], owned: &NameSet) -> bool {
    let holds = |name: &[u8]| {
        let trimmed = trim_end(name);
        // To those who do not trim, what follows is a part of the name.
        owned.holds(trimmed) || (trimmed.len() < name.len() && owned.holds(name))
    };
    // `x[..]` is a member of `x`; Rack and `qs` find `x` in `[x]` too.
    let is_bracket = |b: &u8| matches!(b, b'[' | b']');
    let bare = trim_start(name);
    let root = bare.split(is_bracket).next().unwrap_or_default();
    if holds(root) {
        return true;
    }
    // PHP reads an opening bracket that is never closed as `_`.
    let unclosed = bare.iter().position(|b| *b == b'[').and_then(|at| bare.get(at..));
    unclosed.is_some_and(|rest| !rest.contains(&b']')) && holds(bare)
}

/// Without what stands before the first letter: brackets, and what is trimmed.
fn trim_start(name: &[u8]) -> &[u8] {
    let first = name.iter().position(|b| b.is_ascii_graphic() && !matches!(b, b'[' | b']'));
    let (before, rest) = name.split_at(first.unwrap_or(name.len()));
    let goes = |c| matches!(c, '[' | ']') || is_trimmed(c);
    if before.is_empty() || String::from_utf8_lossy(before).chars().all(goes) { rest } else { name }
}

/// Without what is trimmed at the end.
fn trim_end(name: &[u8]) -> &[u8] {
    let last = name.iter().rposition(u8::is_ascii_graphic);
    let (rest, after) = name.split_at(last.map_or(0, |last| last + 1));
    if after.is_empty() || String::from_utf8_lossy(after).chars().all(is_trimmed) { rest } else { name }
}

/// Whether any reader's `trim` takes this off the ends of a name: PHP, Java, Python, JavaScript and .NET differ in what they
/// take. What is no UTF-8 counts too: in another encoding it may be blank.
fn is_trimmed(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '\u{180e}' | '\u{200b}' | '\u{feff}' | '\u{fffd}')
}

/// `+` as blank, `%XX`, and `%uXXXX` as IIS reads it; what is no escape stays.
fn decode(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(name);
    }
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let (byte, after) = unescape(rest).unwrap_or((*first, tail));
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

/// The byte that an escape at the start of `bytes` stands for, and what follows the escape. A letter beyond Latin-1 is any
/// byte that is no letter of ours.
fn unescape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match bytes {
        [b'%', b'u' | b'U', page, page_low, hi, lo, after @ ..] => {
            let byte = hex(*hi, *lo)?;
            Some((if hex(*page, *page_low)? == 0 { byte } else { 0xff }, after))
        }
        [b'%', hi, lo, after @ ..] => Some((hex(*hi, *lo)?, after)),
        [b'+', after @ ..] => Some((b' ', after)),
        _ => None,
    }
}

fn hex(hi: u8, lo: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(hi)? << 4 | digit(lo)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::directory::Directory;
    use crate::backend::egov_user::EgovUser;
    use crate::backend::oauth2::OAuth2;
    use crate::backend::sanic_jwt::SanicJwt;

    fn cleaned(query: &str) -> String {
        match clean_query(query, &NameSet::parameters_of(Directory::BELIEVED)) {
            CleanQuery::AsSent => query.to_owned(),
            CleanQuery::Changed(rest) => rest,
        }
    }

    #[test]
    fn every_spelling_of_our_parameters_goes() {
        for piece in [
            "token=1",
            "token",
            "token=",
            "TOKEN=1",
            "access-token=1",
            "access_token=1",
            "access.token=1",
            "access%20token=1",
            "access%fftoken=1",
            "access+token=1",
            "%74oken=1",
            "%74%6F%6b%65%6e",
            "%u0074oken=1",
            "%u3000token%uFEFF=1",
            "access%u2003token=1",
            "token[]=1",
            "token%5B%5D=1",
            "token[a][b]=1",
            "[token]=1",
            "[[token]]=1",
            "]token=1",
            "token]=1",
            "+token=1",
            "%20%09token=1",
            "token%20=1",
            "token%0b=1",
            "token%0b[]=1",
            "%0baccess[token%0b=1",
            "%1ctoken%1f=1",
            "%c2%a0token%c2%85=1",
            "%a0token%85=1",
            "%ef%bb%bftoken%e2%80%a8=1",
            "[%01token%7f]=1",
            "token\u{3000}=1",
            "token%00x=1",
            "role%00x=1",
            "access[token=1",
            "access%5btoken=1",
            "role-key=1",
            "role_=1",
            "role+=1",
            "role%0b=1",
            "role%1f[]=1",
            "role%00=1",
            "tenant-code[x]=1",
            "session%2Did=1",
            "Organization-Code=1",
            "role;key=1",
            "role;=7",
            "role;",
            "tenant;a;b=1",
        ] {
            assert_eq!(cleaned(&format!("a=1&{piece}&b=2")), "a=1&b=2", "{piece}");
            assert_eq!(cleaned(piece), "", "{piece}");
        }
    }

    /// What is trimmed off the ends of a name is never a part of one of ours.
    #[test]
    fn our_names_begin_and_end_with_letters() {
        for believed in [Directory::BELIEVED, EgovUser::BELIEVED, OAuth2::BELIEVED, SanicJwt::BELIEVED] {
            let whole = [believed.names, believed.parameters].concat();
            assert!(whole.iter().all(|name| name.ends_with(|c: char| c.is_ascii_alphanumeric())));
            let all = [&whole[..], believed.parameter_prefixes].concat();
            assert!(all.iter().all(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric())));
        }
    }

    #[test]
    fn everything_else_stays_byte_for_byte() {
        for query in [
            "",
            "&",
            "a",
            "a=token",
            "a=1&&b=2;;c",
            "tokens=1",
            "a[token]=1",
            "access]token=1",
            "role=1",
            "role[key]=1",
            "x-token=1",
            "=token",
            "access=1",
            "access&_token",
            "a=%74oken",
            "%",
            "%7",
            "%zz=1",
            "a=%00token",
            "token.x=1",
            "accesstoken=1",
            "roles;key=1",
            "a;b=role_key",
            "?a",
            "%c3%a9token=1",
            "token%c3%a9=1",
            "tok%0ben=1",
        ] {
            assert_eq!(
                clean_query(query, &NameSet::parameters_of(Directory::BELIEVED)),
                CleanQuery::AsSent,
                "{query}"
            );
        }
        assert_eq!(clean_query("token=1", &NameSet::default()), CleanQuery::AsSent);
    }

    #[test]
    fn separators_of_what_stays_are_kept() {
        for (query, wanted) in [
            ("token=1&a=%2e+", "a=%2e+"),
            ("a&token", "a"),
            ("a&token&", "a&"),
            ("a;token;b", "a;b"),
            ("a;token&b", "a&b"),
            ("a&token;b", "a&b"),
            ("a&&token&&b", "a&&&b"),
            ("token&token;token", ""),
            ("a=x;token=1&token=2;b=y", "a=x&b=y"),
            ("access;token=1", "access"),
            ("&token", ""),
        ] {
            assert_eq!(cleaned(query), wanted, "{query}");
        }
    }
}
