//! Starts servers for tests: their ports and time limits.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often a start is tried, since another process may take a free port before the server binds it.
pub const START_ATTEMPTS: usize = 5;
/// Long enough for a busy machine, and for a cluster to elect a leader.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A number that no other call in this process returns until all numbers were used.
pub fn next_number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A loopback port that nobody used a moment ago, below those that the system gives to outgoing connections. So the port of a server that is
/// down stays free, and a client that connects to it does not connect to itself.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    for _ in 0..COUNT {
        // Test processes that run at the same time begin with numbers far apart.
        let place = std::process::id().wrapping_mul(7_919).wrapping_add(next_number());
        let port = u16::try_from(FIRST + place % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
