//! Events on their way to JavaScript: a row of numbers for each, and one text for many.
//!
//! An object, or a string, that is made through N-API takes as long as everything else that an event costs. So JavaScript makes them.

use std::collections::VecDeque;
use std::fmt::Write as _;

use dlock::observe::{Event, Subscription};
use dlock::owner::SessionId;

use crate::numbers::{millis, wide};

/// Before the rows: how many there are, and whether that is not all.
const HEAD: usize = 2;
/// Numbers per row: the kind's place in `Kind::ALL`, the key's length, token, the length of the owner's number, waited, held, the reason's length.
/// `observe.js` has the same lists.
const STRIDE: usize = 7;
/// What is not there.
const NONE: f64 = f64::NAN;
/// A text that is as long as this, in bytes, ends. JavaScript keeps all of it for as long as somebody keeps one of its events.
const ENOUGH: usize = 2048;
/// For the last key, and the session.
const ROOM: usize = 256;

/// A subscription, and what was taken of it and not told yet.
pub(crate) struct Hearing {
    pub(crate) subscription: Subscription,
    left: VecDeque<Event>,
}

impl Hearing {
    pub(crate) fn new(subscription: Subscription) -> Self {
        Self { subscription, left: VecDeque::new() }
    }

    /// Takes what has come, unless there is something left of the last time. Nothing once nothing more will come.
    pub(crate) fn next(&mut self, out: &mut [f64]) -> Option<String> {
        if self.left.is_empty() {
            self.subscription.take_into(&mut self.left);
        }
        if self.left.is_empty() && self.subscription.is_over() {
            return None;
        }
        Some(self.write(out))
    }

    /// The text is the key, the owner's number and the reason of each, and at last what all of their owners begin with.
    fn write(&mut self, out: &mut [f64]) -> String {
        let (head, rows) = out.split_at_mut(HEAD);
        let (mut text, mut count, mut session) = (String::with_capacity(ENOUGH + ROOM), 0, None);
        for (row, event) in rows.chunks_exact_mut(STRIDE).zip(&self.left) {
            let its = session_of(event);
            if text.len() >= ENOUGH || (session.is_some() && its.is_some() && its != session) {
                break;
            }
            row.copy_from_slice(&told(event, &mut text));
            session = session.or(its);
            count += 1;
        }
        self.left.drain(..count);
        if let Some(session) = session {
            // A string takes whatever is written.
            let _ = write!(text, "{session}:");
        }
        head.copy_from_slice(&[whole(count), f64::from(u8::from(!self.left.is_empty()))]);
        text
    }
}

fn session_of(event: &Event) -> Option<SessionId> {
    event.owner.map(|owner| owner.session)
}

/// The row, once the words that belong to it are at the end of the text.
fn told(event: &Event, text: &mut String) -> [f64; STRIDE] {
    let mut say = |word: &str| {
        text.push_str(word);
        length(word)
    };
    [
        f64::from((event.kind as u8).trailing_zeros()),
        say(&event.key),
        event.token.map_or(NONE, wide),
        // JavaScript would keep the text of each number for longer than the event.
        event.owner.map_or(NONE, |owner| say(&owner.sequence.to_string())),
        event.waited.map_or(NONE, millis),
        event.held.map_or(NONE, millis),
        event.reason.as_deref().map_or(NONE, say),
    ]
}

/// As JavaScript counts.
fn length(text: &str) -> f64 {
    whole(if text.is_ascii() { text.len() } else { text.encode_utf16().count() })
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn whole(count: usize) -> f64 {
    count as f64
}
