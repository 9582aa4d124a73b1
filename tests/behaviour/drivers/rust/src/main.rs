//! The Rust driver of the behaviour suite: runs the operations that the runner sends, and judges nothing.
//!
//! One request a line on stdin, `{"id": 1, "client": "a", "op": "acquire", "args": {..}}`; one answer a line on stdout, in any order.
//! Times are in milliseconds, stamps are readings of `CLOCK_MONOTONIC`, which all processes of the machine share.

#![forbid(unsafe_code)]

mod operations;
mod shown;
mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use crate::operations::Driver;
use crate::wire::{Request, cancelled, print};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A panic, on whatever thread, ends the process: the runner sees that at once.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(101);
    }));
    let (lines, received) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, serve(received));
    dlock::shutdown(Duration::from_secs(2));
    result
}

/// Starts every request in the order of arrival, until stdin ends.
async fn serve(mut lines: mpsc::UnboundedReceiver<String>) -> Result<(), Box<dyn std::error::Error>> {
    let driver = Rc::new(Driver::default());
    let tasks: Rc<RefCell<HashMap<u64, JoinHandle<()>>>> = Rc::default();
    while let Some(line) = lines.recv().await {
        let request: Request = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        let id = request.id;
        match request.op.as_str() {
            "exit" | "quit" => break,
            "cancel" => {
                let found = request.args.task.and_then(|task| tasks.borrow_mut().remove_entry(&task));
                print(id, Ok(found.is_some().into()));
                if let Some((task, handle)) = found {
                    handle.abort();
                    // Told when it is over, not when it was asked to end.
                    tokio::task::spawn_local(async move {
                        let _ = handle.await;
                        print(task, Err(cancelled()));
                    });
                }
            }
            // Here and not in a task, so that everything else in this process really stands still.
            "block" => {
                std::thread::sleep(wire::duration("for", request.args.blocked.as_ref())?.unwrap_or_default());
                print(id, Ok(true.into()));
            }
            _ => {
                let (driver, running) = (driver.clone(), tasks.clone());
                let task = tokio::task::spawn_local(async move {
                    let answer = driver.run(&request).await;
                    running.borrow_mut().remove(&id);
                    print(id, answer.map_err(|error| wire::describe(&error)));
                });
                tasks.borrow_mut().insert(id, task);
            }
        }
    }
    Ok(())
}
