//! HTML that cannot be broken out of: text becomes markup only by being escaped.
//! In: templates of this program and texts of anybody. Out: [`Markup`]. Errors: none. I/O: none.
//! Source: WHATWG HTML §13.1.2 and §13.1.4 (what text and quoted attribute values may hold).

use crate::text::html_escaped;

/// A piece of HTML in which everything that came from outside is escaped. It may stand where a template has text or a
/// quoted attribute value, and nowhere else (not in a script, a style or an unquoted attribute).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Markup(String);

impl Markup {
    /// Text as text: the five characters that mean something in HTML become references.
    pub(super) fn text(text: &str) -> Self {
        Self(html_escaped(text))
    }

    /// Markup written in this program.
    pub(super) fn written(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// The template with each `{{name}}` replaced by the slot of that name, in one pass: what a slot holds is not looked
    /// at again. A name without a slot becomes nothing.
    pub(super) fn fill(template: &'static str, slots: &[(&str, Self)]) -> Self {
        let mut page = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            page.push_str(before);
            let Some((name, behind)) = after.split_once("}}") else {
                rest = after;
                break;
            };
            if let Some((_, markup)) = slots.iter().find(|(slot, _)| *slot == name) {
                page.push_str(&markup.0);
            }
            rest = behind;
        }
        page.push_str(rest);
        Self(page)
    }

    /// Everything that `pieces` yields, one after the other.
    pub(super) fn concat(pieces: impl IntoIterator<Item = Self>) -> Self {
        Self(pieces.into_iter().map(|piece| piece.0).collect())
    }

    /// The HTML.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_an_element_or_a_quoted_attribute() {
        let text = Markup::text(r#"<script>alert('1')</script>" onload="x" &amp;"#);
        assert_eq!(
            text.into_string(),
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; onload=&quot;x&quot; &amp;amp;"
        );
    }

    #[test]
    fn a_slot_is_not_read_as_a_template() {
        let slots = [("a", Markup::text("{{b}}")), ("b", Markup::text("secret"))];
        assert_eq!(Markup::fill("<p>{{a}}</p>{{b}}{{none}}", &slots).into_string(), "<p>{{b}}</p>secret");
    }

    #[test]
    fn an_unfinished_slot_ends_nothing_but_itself() {
        assert_eq!(Markup::fill("a{{b", &[]).into_string(), "ab");
    }
}
