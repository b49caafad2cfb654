//! Takes secrets out of text. It rather takes too much: what looks like a secret is one.

/// What stands for a secret.
const REMOVED: &str = "[removed]";
/// What comes after one of these words and `=` or `:` is a secret.
const WORDS: &[&str] = &["token", "secret", "password", "passwd", "passphrase", "authorization", "credential", "key"];
/// How our own tokens begin; so many hexadecimal digits follow at least.
const OURS: (&str, usize) = ("mayastor_", 32);

/// The text without tokens, keys, passwords and the like.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut pem = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            pem = true;
            out += REMOVED;
            out.push('\n');
        }
        if !pem {
            redact_line(line, &mut out);
        }
        if line.contains("-----END") {
            pem = false;
        }
    }
    out
}

/// Whether a byte may be a part of a secret, or of a word.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn redact_line(line: &str, out: &mut String) {
    // Same length as the line, so positions fit both.
    let lower = line.to_ascii_lowercase();
    let mut at = 0;
    while at < line.len() {
        let rest = &lower[at..];
        let begins = at == 0 || !is_word(lower.as_bytes()[at - 1]);
        let bearer = rest.starts_with("bearer ").then_some("bearer ".len());
        let skip = bearer.or_else(|| own(rest)).or_else(|| user_of_uri(rest)).or_else(|| after_word(rest, begins));
        match skip {
            Some(skip) => {
                let end = at + skip + secret(&lower[at + skip..]);
                out.push_str(&line[at..at + skip]);
                if end > at + skip {
                    out.push_str(REMOVED);
                }
                at = end;
            }
            None => {
                let c = line[at..].chars().next().map_or(1, char::len_utf8);
                out.push_str(&line[at..at + c]);
                at += c;
            }
        }
    }
}

/// A token of ours, and no metric, which begins in the same way.
fn own(rest: &str) -> Option<usize> {
    let digits = rest.strip_prefix(OURS.0)?.bytes().take_while(u8::is_ascii_hexdigit).count();
    (digits >= OURS.1).then_some(OURS.0.len())
}

/// How long the secret is that a text begins with: to the end of its word, or of the quotes that it is in.
fn secret(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '}' | ']' | ')' | '&' | ';' | '@'))
        .unwrap_or(text.len())
}

/// `word`, `"word"`, `some_word`, `wordFile`, then `=` or `:`: how much of it is before the secret.
fn after_word(rest: &str, begins: bool) -> Option<usize> {
    if !begins {
        return None;
    }
    let name = rest.bytes().take_while(|b| is_word(*b) || *b == b'-').count();
    let named = &rest[..name];
    if !WORDS.iter().any(|w| named == *w || named.ends_with(&format!("_{w}")) || named.ends_with(&format!("-{w}"))) {
        return None;
    }
    let after = rest[name..].trim_start_matches(['"', '\'']);
    let after = after.trim_start_matches(' ');
    let value = after.strip_prefix(['=', ':'])?;
    let value = value.trim_start_matches([' ', '"', '\'']);
    // The word "bearer" says what follows and is none itself.
    let value = value.strip_prefix("bearer ").unwrap_or(value);
    Some(rest.len() - value.len())
}

/// `//user:password@host`: the password.
fn user_of_uri(rest: &str) -> Option<usize> {
    let user = rest.strip_prefix("//")?;
    let end = user.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '?')).unwrap_or(user.len());
    let (who, _) = user[..end].rsplit_once('@')?;
    let colon = who.find(':')?;
    Some(2 + colon + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let token = format!("mayastor_{}", "0a".repeat(32));
        for (text, safe) in [
            (format!("shown {token}, once"), "shown mayastor_[removed], once"),
            ("Authorization: Bearer abc.def".into(), "Authorization: Bearer [removed]"),
            ("authorization=Bearer xyz next".into(), "authorization=Bearer [removed] next"),
            ("{\"key\": \"00112233\", \"uuid\": \"u1\"}".into(), "{\"key\": \"[removed]\", \"uuid\": \"u1\"}"),
            ("chap_secret: 0123456789ab".into(), "chap_secret: [removed]"),
            ("nvmf://h:1/nqn?key=0011&x=1".into(), "nvmf://h:1/nqn?key=[removed]&x=1"),
            ("https://bob:hunter2@host/x".into(), "https://bob:[removed]@host/x"),
            ("MAYASTOR_TOKEN=abc".into(), "MAYASTOR_TOKEN=[removed]"),
            ("mayastor_volume_reads_total{volume=\"a\"} 7".into(), "mayastor_volume_reads_total{volume=\"a\"} 7"),
            (
                "nothing: here, monkey: business, node-1 online ä".into(),
                "nothing: here, monkey: business, node-1 online ä",
            ),
            ("a\n-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nb\n".into(), "a\n[removed]\nb\n"),
        ] {
            assert_eq!(redact(&text), safe);
        }
    }

    #[test]
    fn a_token_is_found_wherever_it_is() {
        let token = access::Secret::generate();
        let bare = token.expose().trim_start_matches("mayastor_");
        for text in ["x{}y", "\"{}\"", "token={}", "{}{}", "a\n{}\n", "Bearer {}"] {
            let text = text.replace("{}", token.expose());
            assert!(!redact(&text).contains(bare), "{}", redact(&text));
        }
    }
}
