//! Reads the scripts' answers into the types of the backend contract.

use std::time::Duration;

use redis::Value;

use crate::backend::{Acquired, Grant, Inspection, Renewed, Waiting};
use crate::error::{BackendError, Failure};
use crate::fencing::is_token;
use crate::holder::{Holder, Note};
use crate::owner::OwnerId;

/// Reads the answer to an acquire: a token, `{look again, ahead, left, value}`, or -1 (`None`) if it came after its not-after and did
/// nothing.
pub(super) fn acquired(value: &Value, ttl: Duration) -> Result<Option<Acquired>, BackendError> {
    if let Value::Int(token) = value {
        return Ok(u64::try_from(*token).ok().map(|token| Acquired::Granted(Grant { token, ttl, age: Duration::ZERO })));
    }
    let fields = array(value)?;
    Ok(Some(Acquired::Waiting(Waiting {
        look_again: ms(int(fields, 0)?),
        position: u64::try_from(int(fields, 1)?).ok(),
        holder: fields.get(3).and_then(text).map(|value| holder(&value, int(fields, 2).unwrap_or(-1))),
    })))
}

/// Reads the answer to a release: `released`, or `{released, answer to the next acquire}`.
pub(super) fn released(value: Value) -> Result<(bool, Option<Value>), BackendError> {
    match value {
        Value::Int(released) => Ok((released == 1, None)),
        Value::Array(fields) => match <[Value; 2]>::try_from(fields) {
            Ok([Value::Int(released), next]) => Ok((released == 1, Some(next))),
            _ => Err(unexpected()),
        },
        _ => Err(unexpected()),
    }
}

/// Reads `{now, one answer for each request}`; an answer is a value, or the text of an error.
pub(super) fn batch(value: Value, count: usize) -> Result<(i64, impl Iterator<Item = Result<Value, String>>), BackendError> {
    let Value::Array(fields) = value else { return Err(unexpected()) };
    if fields.len() != count + 1 {
        return Err(unexpected());
    }
    let server_us = int(&fields, 0)?;
    let answers = fields.into_iter().skip(1).map(|answer| match &answer {
        Value::Array(fields) if fields.len() == 1 => Err(fields.first().and_then(text).unwrap_or_default()),
        _ => Ok(answer),
    });
    Ok((server_us, answers))
}

/// The error that one of our scripts words itself, for people; `None` for an error of the server.
pub(super) fn of_ours(text: &str) -> Option<BackendError> {
    Some(BackendError::new(Failure::Refused, text.strip_prefix("DLOCK ")?))
}

/// Reads `{0, ms…}`, or the server's time if the batch came too late.
pub(super) fn renewed(value: &Value, count: usize) -> Result<Result<Vec<Renewed>, i64>, BackendError> {
    let fields = array(value)?;
    if int(fields, 0)? < 0 {
        return Ok(Err(int(fields, 1)?));
    }
    let remaining = fields[1..].iter().map(|field| match field {
        Value::Int(left) if *left >= 0 => Ok(Renewed::Extended(ms(*left))),
        Value::Int(_) => Ok(Renewed::Gone),
        _ => Err(unexpected()),
    });
    let renewed = remaining.collect::<Result<Vec<_>, _>>()?;
    if renewed.len() == count { Ok(Ok(renewed)) } else { Err(unexpected()) }
}

/// Reads the ms after which each waiter should look again.
pub(super) fn look_again(value: &Value, count: usize) -> Result<Vec<Duration>, BackendError> {
    let fields = array(value)?;
    if fields.len() != count {
        return Err(unexpected());
    }
    (0..count).map(|at| Ok(ms(int(fields, at)?))).collect()
}

/// Reads `{value, left, waiters}`.
pub(super) fn inspected(key: String, value: &Value) -> Result<Inspection, BackendError> {
    let fields = array(value)?;
    let left = int(fields, 1)?;
    let holder = fields.first().and_then(text).map(|value| holder(&value, left));
    let queue = array(fields.get(2).ok_or_else(unexpected)?)?.iter().filter_map(text).collect();
    Ok(Inspection { key, holder, queue, ..Inspection::default() })
}

/// Reads a plain 1, or the reason why a client cannot have a lock.
pub(super) fn probed(value: &Value) -> Result<(), BackendError> {
    match text(value) {
        Some(reason) => Err(BackendError::new(Failure::Refused, reason)),
        None => is_one(value).map(drop),
    }
}

/// True for a plain 1.
pub(super) fn is_one(value: &Value) -> Result<bool, BackendError> {
    match value {
        Value::Int(answer) => Ok(*answer == 1),
        _ => Err(unexpected()),
    }
}

/// The holder that a lock's value names. A value in another format counts as the owner as a whole.
fn holder(value: &str, left: i64) -> Holder {
    let remaining = u64::try_from(left).ok().map(Duration::from_millis);
    let mut fields = value.splitn(4, '|');
    let mut next = || fields.next().unwrap_or_default();
    let (owner, version, token, note) = (next(), next(), next(), next());
    let is_number = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    match (owner.parse::<OwnerId>(), version, is_number) {
        (Ok(_), "1", true) => {
            // Token 0 is a claim: handed over and not confirmed yet. Any other number that is no token was spoilt.
            let token = token.parse().ok().filter(|token| is_token(*token));
            Holder { owner: owner.to_owned(), token, remaining, note: Note::decode(note) }
        }
        _ => Holder { owner: value.to_owned(), token: None, remaining, note: None },
    }
}

/// True if dlock wrote the value of this holder.
pub(super) fn is_ours(holder: &Holder) -> bool {
    holder.owner.parse::<OwnerId>().is_ok()
}

fn array(value: &Value) -> Result<&[Value], BackendError> {
    match value {
        Value::Array(fields) => Ok(fields),
        _ => Err(unexpected()),
    }
}

fn int(fields: &[Value], at: usize) -> Result<i64, BackendError> {
    match fields.get(at) {
        Some(Value::Int(number)) => Ok(*number),
        _ => Err(unexpected()),
    }
}

fn ms(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

/// A text. Values that other programs wrote need not be UTF-8.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

/// The error for an answer that none of our scripts gives.
pub(super) fn unexpected() -> BackendError {
    BackendError::new(Failure::Unknown, "an answer of an unexpected shape")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "00000000000000000000000000000007:12";

    #[test]
    fn our_value_is_taken_apart() {
        let read = holder(&format!(r#"{OWNER}|1|77|{{"host":"a","pid":1,"since":2,"metadata":"x|y"}}"#), 500);
        assert_eq!((read.owner.as_str(), read.token, read.remaining), (OWNER, Some(77), Some(Duration::from_millis(500))));
        assert_eq!(read.note.unwrap().metadata.as_deref(), Some("x|y"));
    }

    #[test]
    fn a_claim_has_no_token_and_a_foreign_value_is_its_own_owner() {
        assert_eq!(holder(&format!("{OWNER}|1|0|"), 500).token, None);
        let foreign = holder("b7a1|x", -1);
        assert_eq!((foreign.owner.as_str(), foreign.remaining, foreign.note), ("b7a1|x", None, None));
    }

    #[test]
    fn answers_of_another_shape_are_errors() {
        assert!(acquired(&Value::Nil, Duration::ZERO).is_err());
        assert!(acquired(&Value::Array(vec![Value::Int(1)]), Duration::ZERO).is_err());
        assert!(released(Value::Array(vec![Value::Int(1)])).is_err());
        assert!(batch(Value::Array(vec![Value::Int(0)]), 1).is_err());
        assert!(renewed(&Value::Array(vec![Value::Int(0)]), 1).is_err());
        assert!(look_again(&Value::Array(vec![]), 1).is_err());
    }
}
