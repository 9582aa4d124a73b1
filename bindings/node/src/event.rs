//! Events on their way to JavaScript: a row of numbers for each, and one text for many.
//!
//! Making one object or string through N-API takes as long as everything else about an event, so JavaScript makes them.

use std::collections::VecDeque;
use std::fmt::Write as _;

use dlock::observe::{Event, Subscription};
use dlock::owner::SessionId;

use crate::numbers::{millis, wide};

/// The numbers before the rows: how many rows there are, and whether there are more events.
const HEAD: usize = 2;
/// Numbers per row: the kind's place in `Kind::ALL`, the key's length, token, the length of the owner's number, waited, held, the reason's length.
/// `observe.js` has the same lists.
const STRIDE: usize = 7;
/// A missing value.
const NONE: f64 = f64::NAN;
/// A text ends at this length, in bytes: JavaScript keeps all of it while the program keeps one of its events.
const ENOUGH: usize = 2048;
/// Room for the last key, and the session.
const ROOM: usize = 256;

/// A subscription, and the events that were taken and not yet delivered.
pub(crate) struct Delivery {
    pub(crate) subscription: Subscription,
    left: VecDeque<Event>,
}

impl Delivery {
    pub(crate) fn new(subscription: Subscription) -> Self {
        Self { subscription, left: VecDeque::new() }
    }

    /// Takes the queued events, unless some are left from the last time. Nothing once the subscription has ended.
    pub(crate) fn next(&mut self, out: &mut [f64]) -> Option<String> {
        if self.left.is_empty() {
            self.subscription.take_into(&mut self.left);
        }
        if self.left.is_empty() && self.subscription.is_over() {
            return None;
        }
        Some(self.write(out))
    }

    /// The text has the key, the owner's number and the reason of each event, and at the end what all owner ids begin with.
    fn write(&mut self, out: &mut [f64]) -> String {
        let (head, rows) = out.split_at_mut(HEAD);
        let (mut text, mut count, mut session) = (String::with_capacity(ENOUGH + ROOM), 0, None);
        for (row, event) in rows.chunks_exact_mut(STRIDE).zip(&self.left) {
            let its = session_of(event);
            if text.len() >= ENOUGH || (session.is_some() && its.is_some() && its != session) {
                break;
            }
            row.copy_from_slice(&row_of(event, &mut text));
            session = session.or(its);
            count += 1;
        }
        self.left.drain(..count);
        if let Some(session) = session {
            // Writing to a string cannot fail.
            let _ = write!(text, "{session}:");
        }
        head.copy_from_slice(&[whole(count), f64::from(u8::from(!self.left.is_empty()))]);
        text
    }
}

fn session_of(event: &Event) -> Option<SessionId> {
    event.owner.map(|owner| owner.session)
}

/// The row of an event. It appends the event's words to the text.
fn row_of(event: &Event, text: &mut String) -> [f64; STRIDE] {
    let mut say = |word: &str| {
        text.push_str(word);
        length(word)
    };
    [
        f64::from((event.kind as u8).trailing_zeros()),
        say(&event.key),
        event.token.map_or(NONE, wide),
        // As text: JavaScript would keep the string of each number for longer than the event.
        event.owner.map_or(NONE, |owner| say(&owner.sequence.to_string())),
        event.waited.map_or(NONE, millis),
        event.held.map_or(NONE, millis),
        event.reason.as_deref().map_or(NONE, say),
    ]
}

/// The length as JavaScript counts it.
fn length(text: &str) -> f64 {
    whole(if text.is_ascii() { text.len() } else { text.encode_utf16().count() })
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn whole(count: usize) -> f64 {
    count as f64
}
