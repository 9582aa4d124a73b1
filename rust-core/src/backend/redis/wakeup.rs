//! Turns the server's push messages into hints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::SendError;
use redis::{PushInfo, PushKind, Value};

use super::names;
use crate::backend::{Context, Hint};

/// Receives what the server pushes on one connection. `usable` turns false when the connection ends.
pub(super) fn listener(
    context: Context,
    usable: Arc<AtomicBool>,
) -> impl Fn(PushInfo) -> Result<(), SendError> + Send + Sync + 'static {
    move |push| {
        match push.kind {
            PushKind::Disconnection => usable.store(false, Ordering::Release),
            PushKind::Message => {
                if let Some(hint) = hint(&context.namespace, &push.data) {
                    (context.on_hint)(hint);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads the message of a hand-over: `owner key`.
fn hint(namespace: &str, message: &[Value]) -> Option<Hint> {
    let [_channel, Value::BulkString(payload)] = message else { return None };
    let (owner, lock) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some(Hint::Key(names::without_namespace(namespace, lock)?, Some(owner.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::{OwnerId, SessionId};

    #[test]
    fn a_message_names_owner_and_key() {
        let owner = OwnerId { session: SessionId::from_u128(5), sequence: 9 };
        let message = |text: String| [Value::BulkString(b"channel".to_vec()), Value::BulkString(text.into_bytes())];
        assert_eq!(hint("ns", &message(format!("{owner} ns/my key"))), Some(Hint::Key("my key".into(), Some(owner))));
        assert_eq!(hint("ns", &message(format!("{owner} other/my key"))), None);
        assert_eq!(hint("ns", &message("rubbish".into())), None);
    }
}
