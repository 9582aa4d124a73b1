//! How servers of tests are started: where they listen, and what that may take.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What a port taken between looking and binding costs: another try.
pub const START_ATTEMPTS: usize = 5;
/// Long enough for a busy machine, and for a cluster to elect a leader.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

/// One that no other call in this process returns, before all others had their turn.
pub fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A loopback port that nobody used a moment ago, below those that the system gives to outgoing connections: while a server
/// is down its port stays free, and a client that knocks there does not meet itself.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    for _ in 0..COUNT {
        // Test processes that run at once begin far from each other.
        let place = std::process::id().wrapping_mul(7_919).wrapping_add(next_number());
        let port = u16::try_from(FIRST + place % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
