//! Rule 14: while a client closes, who holds a lease of it, and what that one started, may acquire more; everybody else is refused.

#![allow(clippy::unwrap_used)]
#![allow(clippy::async_yields_async)] // a close goes on beyond the body that began it

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlock::clock::ManualClock;
use dlock::{Caller, Client, ClientOptions, Error, Lease, LossReason, Retry};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

/// Two clients of one place.
fn two() -> [Client; 2] {
    let url = format!("memory:closing-{:?}", std::thread::current().id());
    [Client::new(&url).unwrap(), Client::new(&url).unwrap()]
}

async fn eventually(mut test: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + 5 * SECOND;
    while !test().await {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Begins to close the client in a task of its own; returns when that has begun.
async fn closing(client: &Client, timeout: Duration) -> JoinHandle<()> {
    let closed = client.clone();
    let task = tokio::spawn(async move { closed.close(timeout).await.unwrap() });
    eventually(async || refused(&apart(&client.lock("an outsider's").wait(Duration::ZERO)).await)).await;
    task
}

/// An acquire by a task that nobody here started.
fn apart(lock: &dlock::Lock) -> JoinHandle<dlock::Result<Lease>> {
    let lock = lock.clone();
    tokio::spawn(async move { lock.acquire().await })
}

fn refused<T>(result: &Result<dlock::Result<T>, tokio::task::JoinError>) -> bool {
    matches!(result, Ok(Err(Error::ClientClosed { .. })))
}

async fn queued(client: &Client, key: &str, count: usize) {
    eventually(async || client.inspect(key).await.unwrap().queue.len() == count).await;
}

#[tokio::test]
async fn r14_a_holder_acquires_more_while_its_client_drains_and_nobody_else_does() {
    let [client, _] = two();
    let held = client.lock("a").acquire().await.unwrap();
    let task = closing(&client, LONG).await;
    let second = client.lock("b").acquire().await.unwrap();
    let tried = client.lock("c").try_acquire().await.unwrap().unwrap();
    let retry = Retry { max_retries: 1, delay: Duration::from_millis(1), ..Retry::default() };
    let retried = client.lock("d").retry(retry).acquire().await.unwrap();
    client.with_lock("e", async |lease| assert!(lease.is_valid())).await.unwrap();
    assert!(refused(&apart(&client.lock("b")).await));
    assert!(refused(&apart(&client.lock("f").retry(Retry::default())).await));
    assert!(client.is_locked("b").await.unwrap());
    assert!(client.inspect("f").await.unwrap().holder.is_none());
    let asking = client.clone();
    assert!(refused(&tokio::spawn(async move { asking.is_locked("b").await }).await));
    held.extend(20 * SECOND).await.unwrap();
    for lease in [held, second, tried, retried] {
        assert!(lease.release().await.unwrap());
    }
    task.await.unwrap();
    assert!(matches!(client.lock("a").acquire().await, Err(Error::ClientClosed { .. })));
    assert!(matches!(client.is_locked("a").await, Err(Error::ClientClosed { .. })));
}

#[tokio::test]
async fn r14_a_body_acquires_more_while_its_client_drains_and_so_does_what_it_started() {
    let [client, _] = two();
    let (closer, outside) = (client.clone(), client.lock("outside"));
    let task = client
        .with_lock("a", async |_| {
            let task = closing(&closer, LONG).await;
            let inner = closer.lock("b");
            inner.acquire().await.unwrap().release().await.unwrap();
            let (started, unknown) = (inner.clone(), inner.clone());
            tokio::spawn(Caller::current().scope(async move { started.with(async |_| ()).await })).await.unwrap().unwrap();
            assert!(refused(&tokio::spawn(async move { unknown.acquire().await }).await));
            task
        })
        .await
        .unwrap();
    task.await.unwrap();
    assert!(refused(&apart(&outside).await));
}

#[tokio::test]
async fn r14_another_future_of_a_bodys_task_is_no_holder() {
    let [client, _] = two();
    let (begun, has_begun) = oneshot::channel();
    let (done, is_done) = oneshot::channel::<()>();
    let body = client.with_lock("a", async |_| {
        begun.send(closing(&client, LONG).await).unwrap();
        is_done.await.unwrap();
    });
    let other = async {
        let task = has_begun.await.unwrap();
        assert!(matches!(client.lock("b").acquire().await, Err(Error::ClientClosed { .. })));
        done.send(()).unwrap();
        task
    };
    let (held, task) = tokio::join!(body, other);
    held.unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn r14_a_holder_goes_on_waiting_past_those_of_its_client_that_are_refused() {
    let ([client, other], [third, _]) = (two(), two());
    let foreign = other.lock("b").acquire().await.unwrap();
    let outsider = apart(&client.lock("b"));
    queued(&other, "b", 1).await;
    let (holding, is_holding) = oneshot::channel();
    let holder = tokio::spawn({
        let client = client.clone();
        async move {
            let first = client.lock("a").acquire().await?;
            let second = client.lock("b").join(None);
            holding.send(()).unwrap();
            let second = second.await?;
            Ok::<_, Error>((first.is_valid(), second.is_valid()))
        }
    });
    is_holding.await.unwrap();
    let task = closing(&client, LONG).await;
    assert!(refused(&outsider.await));
    // Its place is still the client's: a later one of another client is served after it.
    queued(&other, "b", 1).await;
    let late = apart(&third.lock("b"));
    queued(&other, "b", 2).await;
    foreign.release().await.unwrap();
    assert_eq!(holder.await.unwrap().unwrap(), (true, true));
    task.await.unwrap();
    late.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn r14_what_a_holder_started_goes_on_waiting_when_the_holder_ends() {
    let [client, other] = two();
    let foreign = other.lock("b").acquire().await.unwrap();
    let held = client.lock("a").acquire().await.unwrap();
    let lock = client.lock("b");
    let started = tokio::spawn(Caller::current().scope(async move { lock.acquire().await }));
    queued(&other, "b", 1).await;
    let task = closing(&client, LONG).await;
    held.release().await.unwrap();
    foreign.release().await.unwrap();
    let lease = started.await.unwrap().unwrap();
    assert!(!task.is_finished() && lease.is_valid());
    lease.release().await.unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn r14_at_the_deadline_a_nested_acquire_is_refused_and_leaves_no_waiter() {
    let clock = ManualClock::new();
    let client = Client::with_clock("memory:", ClientOptions::default(), Arc::new(clock.clone())).unwrap();
    let other = tokio::spawn({
        let lock = client.lock("b").ttl(600 * SECOND);
        async move { lock.acquire().await }
    })
    .await
    .unwrap()
    .unwrap();
    let held = client.lock("a").ttl(600 * SECOND).acquire().await.unwrap();
    let nested = client.lock("b").join(None);
    let nested = tokio::spawn(nested);
    let task = closing(&client, 20 * SECOND).await;
    clock.advance(19 * SECOND);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!nested.is_finished() && !task.is_finished() && held.is_valid());
    clock.advance(SECOND);
    assert!(refused(&nested.await));
    assert_eq!((held.lost().await, other.lost().await), (LossReason::Closed, LossReason::Closed));
    task.await.unwrap();
}

#[tokio::test]
async fn r14_the_shortest_of_several_closes_ends_the_drain() {
    let [client, _] = two();
    let held = client.lock("a").acquire().await.unwrap();
    let task = closing(&client, LONG).await;
    let again = tokio::spawn({
        let client = client.clone();
        async move { client.close(LONG).await }
    });
    client.close(Duration::ZERO).await.unwrap();
    assert_eq!(held.lost().await, LossReason::Closed);
    task.await.unwrap();
    again.await.unwrap().unwrap();
    assert!(matches!(client.lock("b").acquire().await, Err(Error::ClientClosed { .. })));
}

#[tokio::test]
async fn r14_a_close_that_is_dropped_lets_holders_go_on_and_the_next_one_ends_it() {
    let [client, _] = two();
    let held = client.lock("a").acquire().await.unwrap();
    let task = closing(&client, LONG).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let second = client.lock("b").acquire().await.unwrap();
    assert!(refused(&apart(&client.lock("c")).await));
    held.release().await.unwrap();
    second.release().await.unwrap();
    assert!(matches!(client.lock("b").acquire().await, Err(Error::ClientClosed { .. })), "it holds nothing any more");
    client.close(LONG).await.unwrap();
}

/// Runs a future where no caller can be known.
fn off_tokio<T>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
{
    let (done, is_done) = oneshot::channel();
    std::thread::spawn(move || drop(done.send(futures_executor(work))));
    tokio::spawn(async move { is_done.await.unwrap() })
}

/// The smallest executor there is.
fn futures_executor<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut work = std::pin::pin!(work);
    loop {
        if let std::task::Poll::Ready(value) = work.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::park();
    }
}

#[tokio::test]
async fn r14_off_tokio_any_acquire_is_admitted_while_a_lease_is_held() {
    let [client, other] = two();
    let foreign = other.lock("b").acquire().await.unwrap();
    let held = client.lock("a").acquire().await.unwrap();
    let waiting = client.lock("b");
    let waiting = off_tokio(async move { waiting.acquire().await });
    queued(&other, "b", 1).await;
    let task = closing(&client, LONG).await;
    let lock = client.lock("c");
    off_tokio(async move { lock.acquire().await?.release().await }).await.unwrap().unwrap();
    let came_true = Arc::new(AtomicBool::new(false));
    let lock = client.lock("d");
    let heard = came_true.clone();
    off_tokio(async move { lock.with(async |_| heard.store(true, Ordering::Relaxed)).await }).await.unwrap().unwrap();
    assert!(came_true.load(Ordering::Relaxed) && !waiting.is_finished());
    held.release().await.unwrap();
    assert!(refused(&waiting.await), "nothing is held any more");
    task.await.unwrap();
    foreign.release().await.unwrap();
}

#[tokio::test]
async fn r14_off_tokio_a_client_under_load_is_drained_all_the_same() {
    let [client, _] = two();
    let workers: Vec<_> = (0..20)
        .map(|number| {
            let lock = client.lock(&format!("k-{}", number % 4));
            off_tokio(async move {
                loop {
                    let lease = match lock.acquire().await {
                        Ok(lease) => lease,
                        Err(error) => return error,
                    };
                    std::thread::sleep(Duration::from_millis(5));
                    assert!(lease.is_valid() && lease.release().await.unwrap());
                }
            })
        })
        .collect();
    eventually(async || client.stats().held == 4).await;
    tokio::time::timeout(LONG / 2, client.close(LONG)).await.unwrap().unwrap();
    for worker in workers {
        assert!(matches!(worker.await.unwrap(), Error::ClientClosed { .. }));
    }
}

#[tokio::test]
async fn r14_one_who_was_just_asking_when_the_client_was_closed_leaves_no_key_behind() {
    let [client, other] = two();
    let held = client.lock("k").acquire().await.unwrap();
    // In the line, and not polled yet: the release takes its request along, and is answered with a grant for it.
    let asking = client.lock("k").join(None);
    held.release().await.unwrap();
    let mut task = closing(&client, Duration::ZERO).await;
    // A close that did not wait for it would be over by now.
    assert!(tokio::time::timeout(SECOND / 4, &mut task).await.is_err(), "closed without it");
    assert!(matches!(asking.await, Err(Error::ClientClosed { .. })));
    task.await.unwrap();
    assert!(other.lock("k").try_acquire().await.unwrap().is_some(), "the key is left to expire");
}
