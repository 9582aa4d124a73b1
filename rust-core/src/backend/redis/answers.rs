//! Explains a server's error answers, with one plain sentence each.

use redis::{ErrorKind, RedisError};

/// In an error, stands before the server's copy of what it received, which may be a password.
pub(super) const REPEATED: &str = ", with args beginning with";

/// The sentence for each code. The first match counts, since a script's error may name two codes.
const SENTENCES: [(&str, &str); 17] = [
    ("NOAUTH", "the server wants a password, and the URL has none"),
    ("WRONGPASS", "the server does not know this user with this password"),
    ("OOM", "the server has reached its limit of memory (maxmemory) and takes no writes"),
    ("WRONGTYPE", "the key holds a value that is no lock's: another program uses it"),
    ("READONLY", "the server is a replica and takes no writes"),
    ("MASTERDOWN", "the server is a replica that has lost its master"),
    ("LOADING", "the server has started and is still loading its data"),
    ("BUSY", "the server is busy with a script of somebody else's"),
    ("MISCONF", "the server cannot save its data and takes no writes"),
    ("NOREPLICAS", "the server misses replicas and takes no writes"),
    ("TRYAGAIN", "the server is moving the key and cannot serve it now"),
    ("CLUSTERDOWN", "the cluster of the server is down"),
    ("MOVED", "the server belongs to a Redis Cluster, which dlock does not speak to"),
    ("CROSSSLOT", "the server belongs to a Redis Cluster, which dlock does not speak to"),
    ("DENIED", "the server is in protected mode and takes no connections from other machines"),
    ("NOPROTO", "the server does not speak RESP3: Redis 6 or newer is needed"),
    ("NOSCRIPT", "the server forgets scripts as soon as it gets them"),
];

/// For servers that do not say which command of a script is forbidden.
const SCRIPTS_NEED: &str =
    "the user has no right to a command that locks need, such as SET, DEL, PEXPIRE, ZADD, HSET, TIME or PUBLISH";

/// The error in plain words; `None` where none fit, or where the error is not the server's answer.
pub(super) fn in_words(error: &RedisError) -> Option<String> {
    if error.kind() == ErrorKind::AuthenticationFailed && error.code().is_none() {
        return Some("the server does not know this user with this password".to_owned());
    }
    let outer = error.code()?;
    let detail = error.detail().unwrap_or_default();
    let detail = detail.split(REPEATED).next().unwrap_or_default();
    let answer = format!("{outer} {detail}");
    let known = codes(error);
    let sentence = match SENTENCES.iter().find(|(code, _)| known.contains(code)) {
        Some((_, sentence)) => (*sentence).to_owned(),
        None => by_text(&answer)?,
    };
    Some(format!("{sentence} (the server says: {})", answer.trim_end()))
}

/// For answers without a code of their own, or with one that stands for many things. Their texts differ between versions.
fn by_text(answer: &str) -> Option<String> {
    let is = |known: &str| answer.to_ascii_lowercase().contains(known);
    let named = |before: &str| answer.split_once(before).and_then(|(_, after)| after.split('\'').next());
    let sentence = match () {
        () if is("to run the '") => format!("the user has no right to the command {}", named("to run the '")?),
        () if is("can't run this command") => SCRIPTS_NEED.to_owned(),
        () if is("access the '") && is("' channel") => format!("the user has no right to the channel {}", named("access the '")?),
        () if is("access the '") => format!("the user has no right to the key {}", named("access the '")?),
        () if is("channel") && is("no permissions") => "the user has no right to the session's channel, dlock:s:*".to_owned(),
        () if is("no permissions") || is("acl failure") => {
            "the user has no right to this key, or to the keys dlock:* beside it".to_owned()
        }
        () if is("unknown command") => {
            let name = answer.split(['\'', '`']).nth(1).unwrap_or("that locks need");
            format!("the server has no command {name}: it was renamed or switched off")
        }
        () if is("max number of clients") => "the server has as many clients as it takes (maxclients)".to_owned(),
        () if is("db index is out of range") => "the server has no database of this number".to_owned(),
        () if is("without any password configured") => "the server has no password, and the URL has one".to_owned(),
        () => return None,
    };
    Some(sentence)
}

/// The error's code, and the code inside it: before version 7 a failing script answers `ERR Error running script (…): -READONLY …`.
pub(super) fn codes(error: &RedisError) -> [&str; 2] {
    let detail = error.detail().unwrap_or_default();
    let inner = detail.rsplit_once(": -").map_or(detail, |(_, inner)| inner);
    [error.code().unwrap_or_default(), inner.split(' ').next().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::super::failure::of_text;
    use super::*;

    fn words(answer: &str) -> String {
        in_words(&of_text(answer)).unwrap_or_default()
    }

    #[test]
    fn r16_the_answer_of_a_server_is_one_plain_sentence() {
        for (answer, sentence) in [
            ("NOPERM User bob has no permissions to run the 'evalsha' command", "the user has no right to the command evalsha"),
            ("NOPERM this user has no permissions to run the 'evalsha' command", "the user has no right to the command evalsha"),
            ("NOPERM User bob has no permissions to access the 'dlock:k' key", "the user has no right to the key dlock:k"),
            ("NOPERM No permissions to access a key", "the user has no right to this key"),
            (
                "NOPERM User bob has no permissions to access the 'dlock:s:1' channel",
                "the user has no right to the channel dlock:s:1",
            ),
            ("ERR ACL failure in script: No permissions to access a key", "the user has no right to this key"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "the key holds a value that is no lock's"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "the server has reached its limit of memory"),
            ("ERR max number of clients reached", "the server has as many clients as it takes"),
            ("ERR unknown command 'EVALSHA', with args beginning with: 's3cret' ", "the server has no command EVALSHA"),
            ("ERR unknown command `EVALSHA`, with args beginning with: `s3cret`, ", "the server has no command EVALSHA"),
            ("ERR Error running script (call to f_0): @user_script:8: -READONLY You can't write", "the server is a replica"),
            ("LOADING Redis is loading the dataset in memory", "the server has started and is still loading its data"),
        ] {
            let said = words(answer);
            assert!(said.starts_with(sentence) && said.contains(" (the server says: "), "{answer}: {said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        assert_eq!(words("ERR something new"), "");
    }
}
