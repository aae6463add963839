//! The two people of the demo. Their passwords are printed on the login page: they guard nothing.
//! In: names and passwords. Out: [`Person`]. Errors: none. I/O: none.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

/// Somebody who can sign in.
#[derive(Debug, PartialEq, Eq)]
pub struct Person {
    /// 24 hexadecimal digits, as the directory names its records.
    pub id: &'static str,
    /// Short name to sign in with.
    pub code: &'static str,
    /// Address to sign in with.
    pub email: &'static str,
    /// Phone number to sign in with.
    pub phone: &'static str,
    /// First name.
    pub first_name: &'static str,
    /// Last name.
    pub last_name: &'static str,
    /// The password, for everybody to read.
    pub password: &'static str,
    /// The role's id.
    pub role_id: &'static str,
    /// What the `roleKey` claim says.
    pub role_key: &'static str,
    /// The role's readable name.
    pub role_name: &'static str,
    /// What the role may do.
    pub permissions: &'static [&'static str],
}

/// Everybody the demo knows: one admin, one clerk.
pub static PEOPLE: [Person; 2] = [
    Person {
        id: "6512bd43d9caa6e02c990b0a",
        code: "asha",
        email: "asha@example.org",
        phone: "+910000000001",
        first_name: "Asha",
        last_name: "Rao",
        password: "demo-asha",
        role_id: "c20ad4d76fe97759aa27a0c9",
        role_key: "admin",
        role_name: "Administrator",
        permissions: &["organization.admin", "ledger.read", "ledger.write"],
    },
    Person {
        id: "c51ce410c124a10e0db5e4b9",
        code: "ravi",
        email: "ravi@example.org",
        phone: "+910000000002",
        first_name: "Ravi",
        last_name: "Menon",
        password: "demo-ravi",
        role_id: "aab3238922bcc25a6f606eb5",
        role_key: "clerk",
        role_name: "Clerk",
        permissions: &["ledger.read"],
    },
];

/// The organisation everybody belongs to: id, code, name.
pub(super) const ORGANIZATION: (&str, &str, &str) = ("9bf31c7ff062936a96d3c8bd", "harbour", "Harbour Office");
/// The tenant everybody belongs to: id, code, name.
pub(super) const TENANT: (&str, &str, &str) = ("c74d97b01eae257e44aa9d5b", "demo", "Demo");

/// How somebody says who they are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named<'a> {
    Code(&'a str),
    Email(&'a str),
    Mobile(&'a str),
}

impl Person {
    /// First and last name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }

    /// The person of that id.
    pub(super) fn by_id(id: &str) -> Option<&'static Self> {
        PEOPLE.iter().find(|person| person.id == id)
    }

    /// The person of that name, if the password is theirs. Time does not tell which of the two was wrong: some password
    /// is compared either way, as digests of one length.
    pub(super) fn by_password(named: Named<'_>, password: &str) -> Option<&'static Self> {
        let known = PEOPLE.iter().find(|person| match named {
            Named::Code(code) => person.code.eq_ignore_ascii_case(code),
            Named::Email(email) => person.email.eq_ignore_ascii_case(email),
            Named::Mobile(phone) => person.phone == phone,
        });
        let right = digest(&SHA256, known.map_or("", |person| person.password).as_bytes());
        let given = digest(&SHA256, password.as_bytes());
        let equal = verify_slices_are_equal(right.as_ref(), given.as_ref()).is_ok();
        known.filter(|_| equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_password_must_both_be_right() {
        assert_eq!(Person::by_password(Named::Code("ASHA"), "demo-asha").map(|p| p.code), Some("asha"));
        assert_eq!(
            Person::by_password(Named::Email("ravi@example.org"), "demo-ravi").map(|p| p.code),
            Some("ravi")
        );
        assert_eq!(
            Person::by_password(Named::Mobile("+910000000001"), "demo-asha").map(|p| p.code),
            Some("asha")
        );
        assert_eq!(Person::by_password(Named::Code("asha"), "demo-ravi"), None);
        assert_eq!(Person::by_password(Named::Code("nobody"), ""), None);
    }
}
