//! `redis://`: requests that are executed long after their answer was given up.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use dlock::backend::Acquire;
use support::proxy::{Gate, Proxy};
use support::redis::{Cli, Server, Setup};
use tokio::time::timeout;

const MS: Duration = Duration::from_millis(1);

async fn evals(cli: &Cli) -> u64 {
    let stats: String = cli.run(&["INFO", "commandstats"]).await;
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_eval")?.split_once("calls="));
    lines.map(|(_, rest)| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn r01_a_late_acquire_does_not_shorten_the_lease_that_a_later_one_got() {
    let server = Server::start().await;
    let cli = server.cli().await;
    let proxy = Proxy::to(server.port).await;
    let session = Setup::new(format!("redis://127.0.0.1:{}", proxy.port)).open();
    session.granted("warm", 7).await;
    proxy.requests(Gate::Stalled);
    // A caller with a short TTL leaves before it is answered; the next one inherits its owner id.
    let short = Acquire { ttl: 1_000 * MS, ..session.request("k", 1) };
    let mut late = Box::pin(session.backend.acquire(short));
    assert!(timeout(50 * MS, &mut late).await.is_err());
    support::eventually("it is under way", || async { proxy.kept() == 1 }).await;
    drop(late);
    session.backend.ping(50 * MS).await.unwrap_err();
    session.granted("k", 1).await;
    assert_eq!(proxy.connections(), 2);
    let before = evals(&cli).await;
    proxy.requests(Gate::Open);
    support::eventually("the late request is executed", || async { evals(&cli).await > before }).await;
    assert!(cli.left("ns/k").await > 20_000 * MS, "the later request was granted 30 s");
}
