//! The grammars of names, labels and keys, each with the message Kubernetes gives for a breach.
//!
//! Every function returns what is wrong with a text, nothing if it is right (apimachinery's `util/validation`).

/// The most bytes of a DNS label, a label value and the name part of a qualified name (RFC 1123).
pub const LABEL_BYTES_MAX: usize = 63;
/// The most bytes of a DNS subdomain (RFC 1123).
pub const SUBDOMAIN_BYTES_MAX: usize = 253;
/// The most bytes of a port's name (RFC 6335).
const PORT_NAME_BYTES_MAX: usize = 15;

const DNS_1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
     regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
     regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
     start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
     regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
     regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
     regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV_VAR_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other \
     than '='";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// The grammar of an object's name, which depends on its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain, as of most kinds.
    Subdomain,
    /// A DNS label, as of namespaces.
    Label,
    /// A DNS label that begins with a letter, as of services.
    Label1035,
    /// Whatever can be a segment of a URL's path, as of roles.
    PathSegment,
}

impl NameRule {
    /// What is wrong with `name`.
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => dns_1123_subdomain(name),
            Self::Label => dns_1123_label(name),
            Self::Label1035 => dns_1035_label(name),
            Self::PathSegment => path_segment(name),
        }
    }

    /// What is wrong with `prefix` as the beginning of a name, which may end in a dash.
    pub fn check_prefix(self, prefix: &str) -> Vec<String> {
        match prefix.strip_suffix('-') {
            Some(stem) if self != Self::PathSegment => self.check(&format!("{stem}a")),
            _ if self == Self::PathSegment && matches!(prefix, "." | "..") => Vec::new(),
            _ => self.check(prefix),
        }
    }
}

/// What is wrong with a text as a DNS label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes.
pub fn dns_1123_label(text: &str) -> Vec<String> {
    check(text, LABEL_BYTES_MAX, is_label(text), DNS_1123_LABEL)
}

/// What is wrong with a text as DNS labels joined by dots, at most 253 bytes.
pub fn dns_1123_subdomain(text: &str) -> Vec<String> {
    check(text, SUBDOMAIN_BYTES_MAX, is_subdomain(text), DNS_1123_SUBDOMAIN)
}

/// What is wrong with a text as a DNS label that begins with a letter.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let starts_right = text.starts_with(|c: char| c.is_ascii_lowercase());
    check(text, LABEL_BYTES_MAX, starts_right && is_label(text), DNS_1035_LABEL)
}

/// What is wrong with a text as the key of a label: a name, with an optional DNS subdomain and `/` before it.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let detail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {QUALIFIED_NAME} {detail}")];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            problems.extend(dns_1123_subdomain(prefix).iter().map(|problem| format!("prefix part {problem}")));
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    }
    let right = is_label_text(name);
    problems.extend(check(name, LABEL_BYTES_MAX, right, QUALIFIED_NAME).iter().map(|one| format!("name part {one}")));
    problems
}

/// What is wrong with a text as the value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    check(text, LABEL_BYTES_MAX, text.is_empty() || is_label_text(text), LABEL_VALUE)
}

/// What is wrong with a text as a segment of a URL's path.
pub fn path_segment(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(text, "." | "..") {
        problems.push(format!("may not be '{text}'"));
    }
    for part in ["/", "%"] {
        if text.contains(part) {
            problems.push(format!("may not contain '{part}'"));
        }
    }
    problems
}

/// What is wrong with a text as the name of an environment variable.
pub fn env_var_name(text: &str) -> Vec<String> {
    let right = !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    check(text, usize::MAX, right, ENV_VAR_NAME)
}

/// What is wrong with a text as a key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let right = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let mut problems = check(text, SUBDOMAIN_BYTES_MAX, right, CONFIG_KEY);
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// What is wrong with a text as the name of a port (an IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > PORT_NAME_BYTES_MAX {
        problems.push(too_long(PORT_NAME_BYTES_MAX));
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// What is wrong with a number as a port.
pub fn port_number(port: i32) -> Option<&'static str> {
    (!(1..=65535).contains(&port)).then_some("must be between 1 and 65535, inclusive")
}

fn check(text: &str, bytes_max: usize, right: bool, message: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > bytes_max {
        problems.push(too_long(bytes_max));
    }
    if !right {
        problems.push(message.to_owned());
    }
    problems
}

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label_text(text: &str) -> bool {
    let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    end(text.bytes().next())
        && end(text.bytes().next_back())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_accept_and_refuse_what_kubernetes_does() {
        let long = "a".repeat(64);
        for (check, right, wrong) in [
            (dns_1123_label as fn(&str) -> Vec<String>, vec!["a", "0-a"], vec!["", "-a", "a-", "A", "a.b", &long]),
            (dns_1123_subdomain, vec!["a", "a.b-c.0", &long], vec!["", "a..b", ".a", "a_b", "Bad_Name"]),
            (dns_1035_label, vec!["a", "a0"], vec!["", "0a", "a-"]),
            (qualified_name, vec!["A.b_c", "example.com/Name"], vec!["", "/a", "a/", "a/b/c", "-a", "B_/a", &long]),
            (label_value, vec!["", "A", "a_b.c-d"], vec!["-a", "a b", "ä", &long]),
            (path_segment, vec!["system:node", ""], vec![".", "..", "a/b", "a%b"]),
            (env_var_name, vec!["A_B", "a.b", "1"], vec!["", "a=b", "ä"]),
            (config_key, vec!["a.B_c-d", ".a"], vec!["", ".", "..", "..a", "a/b"]),
            (port_name, vec!["http", "a-1"], vec!["", "80", "A", "a--b", "-a", "a-", "sixteen-chars-xx"]),
        ] {
            right.iter().for_each(|text| assert_eq!(check(text), Vec::<String>::new(), "{text}"));
            wrong.iter().for_each(|text| assert_ne!(check(text), Vec::<String>::new(), "{text}"));
        }
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check_prefix("web-").is_empty());
        assert!(!NameRule::Subdomain.check_prefix("Web-").is_empty());
    }
}
