//! `health()`: whether a key can be had here, and why not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use dlock::{Client, Health, HealthStatus};
use serde_json::json;
use support::etcd::{EtcdServer, Version};
use support::eventually;
use support::redis::{PROGRAMS, Server};

async fn found(client: &Client) -> Health {
    let health = client.health().await.unwrap();
    println!("{health:?}");
    assert_eq!(health.status == HealthStatus::Ok, health.reasons.is_empty());
    health
}

async fn is_ok(client: &Client) {
    let health = found(client).await;
    assert_eq!((health.status, health.round_trip.is_some()), (HealthStatus::Ok, true), "{health:?}");
}

/// No lock can be had, and health says so, with this in its one reason.
async fn is_down(client: &Client, told: &str) {
    let acquired = client.lock("k").wait(Duration::ZERO).acquire().await;
    assert!(acquired.is_err(), "{acquired:?}");
    is_only_down(client, told).await;
}

async fn is_only_down(client: &Client, told: &str) {
    let health = found(client).await;
    assert_eq!((health.status, health.reasons.len(), health.round_trip), (HealthStatus::Down, 1, None), "{health:?}");
    assert!(health.reasons[0].to_lowercase().contains(&told.to_lowercase()), "{told}: {health:?}");
    assert!(!health.reasons[0].contains('\n'), "{health:?}");
}

#[tokio::test]
async fn a_probe_of_redis_leaves_nothing_behind_and_moves_no_token() {
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        for namespace in ["dlock", ""] {
            let cli = server.cli().await;
            let options = dlock::ClientOptions { namespace: namespace.into(), ..Default::default() };
            let client = Client::with_options(&server.url(), options).unwrap();
            is_ok(&client).await;
            assert!(cli.keys().await.is_empty(), "{program}: {:?}", cli.keys().await);
            // With the last token of its own slot in place, and held keys beside it.
            let (lease, slot) = (client.lock("k").acquire().await.unwrap(), "dlock:t:{0}");
            cli.run::<()>(&["SET", slot, "77"]).await;
            let before = cli.keys().await;
            for _ in 0..20 {
                is_ok(&client).await;
            }
            assert_eq!(cli.keys().await, before, "{program}");
            assert_eq!(cli.run::<String>(&["GET", slot]).await, "77");
            lease.release().await.unwrap();
            cli.run::<()>(&["FLUSHALL"]).await;
        }
    }
}

/// Also the one whose slot has a last token: it is neither made nor changed.
#[tokio::test]
async fn a_probe_spares_the_last_token_of_its_slot() {
    let server = Server::start().await;
    let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
    // All slots have one now, so the probe's has.
    let fill = "for n = 0, 40000 do redis.call('SET', 'dlock:t:{' .. n .. '}', '77') end return 1";
    cli.run::<i64>(&["EVAL", fill, "0"]).await;
    is_ok(&client).await;
    let changed = "local n = 0 for _, k in ipairs(redis.call('KEYS', 'dlock:t:*')) do if redis.call('GET', k) ~= '77' then n = n + 1 end end return n";
    assert_eq!(cli.run::<i64>(&["EVAL", changed, "0"]).await, 0);
}

#[tokio::test]
async fn redis_without_memory_is_down() {
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
        is_ok(&client).await;
        cli.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
        is_down(&client, "limit of memory (maxmemory) and takes no writes").await;
        cli.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
        is_ok(&client).await;
    }
}

#[tokio::test]
async fn redis_that_only_reads_is_down() {
    for program in PROGRAMS {
        let master = Server::start_program(program, &[]).await;
        let replica = Server::start_program(program, &["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        let cli = replica.cli().await;
        eventually("the replica follows", || async {
            cli.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        is_down(&Client::new(&replica.url()).unwrap(), "the server is a replica and takes no writes").await;
    }
}

#[tokio::test]
async fn redis_that_misses_its_replicas_is_down() {
    let server = Server::start().await;
    let (cli, client) = (server.cli().await, Client::new(&server.url()).unwrap());
    is_ok(&client).await;
    cli.run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    is_down(&client, "the server misses replicas and takes no writes").await;
}

/// The rights of one who may do all that a lock needs, and no more; then of one who lacks one of them.
#[tokio::test]
async fn redis_that_denies_a_right_is_down() {
    const COMMANDS: [&str; 20] = [
        "get",
        "mget",
        "set",
        "del",
        "exists",
        "pttl",
        "pexpire",
        "time",
        "publish",
        "subscribe",
        "zadd",
        "zrange",
        "zrank",
        "zrem",
        "hset",
        "hget",
        "hmget",
        "hdel",
        "eval",
        "evalsha",
    ];
    for program in PROGRAMS {
        let server = Server::start_program(program, &[]).await;
        let cli = server.cli().await;
        let commands = COMMANDS.map(|command| format!("+{command}"));
        let user = async |name: &str, keys: &[&str], denied: Option<&str>| {
            let denied = denied.map(|command| format!("-{command}"));
            let mut rule = vec!["ACL", "SETUSER", name, "on", ">secret", "resetchannels", "&dlock:s:*", "+hello", "+ping"];
            rule.extend(commands.iter().map(String::as_str));
            rule.extend(keys);
            rule.extend(denied.as_deref());
            cli.run::<()>(&rule).await;
            Client::new(&server.url().replace("://", &format!("://{name}:secret@"))).unwrap()
        };
        let all = ["~dlock/*", "~dlock:*"];
        is_ok(&user("all", &all, None).await).await;
        let needed = COMMANDS.iter().filter(|command| !["subscribe", "eval", "evalsha"].contains(command));
        for command in needed {
            let client = user(&format!("without-{command}"), &all, Some(command)).await;
            is_ok(&user("all", &all, None).await).await;
            // The clock is read when connecting.
            let told = if *command == "time" { "'time'".to_owned() } else { format!("may not run {command}, which a lock needs") };
            is_only_down(&client, &told).await;
            assert!(cli.keys().await.is_empty(), "nothing stays behind");
        }
        is_down(&user("without-scripts", &all, Some("evalsha")).await, "evalsha").await;
        for keys in [["~other/*", "~dlock:*"], ["~dlock/*", "~dlock:t:*"], ["~dlock/*", "~dlock:q:*"]] {
            is_only_down(&user(&format!("keys-{}", keys.join("+").replace(['~', '*', ':', '/'], "")), &keys, None).await, "key")
                .await;
        }
    }
}

#[tokio::test]
async fn an_eviction_policy_is_a_warning_and_no_more() {
    let server = Server::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let client = Client::new(&server.url()).unwrap();
    let health = found(&client).await;
    assert_eq!((health.status, health.warnings.len()), (HealthStatus::Ok, 1), "{health:?}");
    assert!(health.warnings[0].contains("allkeys-lru"), "{health:?}");
}

#[tokio::test]
async fn etcd_without_space_is_down() {
    for version in [Version::Current, Version::Old] {
        let server = EtcdServer::start_with(version).await;
        let client = Client::new(&server.url()).unwrap();
        is_ok(&client).await;
        let (revision, entries) = (server.revision().await, server.raft_index().await);
        is_ok(&client).await;
        assert_eq!(server.revision().await, revision, "nothing was written");
        assert_eq!(server.raft_index().await, entries + 1, "what a probe costs");
        let alarm = |action: &str, alarm: &str| json!({"action": action, "memberID": "0", "alarm": alarm}).to_string();
        for (name, told) in [("NOSPACE", "space"), ("CORRUPT", "corrupt")] {
            server.call("maintenance/alarm", &alarm("ACTIVATE", name)).await;
            is_down(&client, told).await;
            let member = server.status().await.unwrap().member.to_string();
            let off = json!({"action": "DEACTIVATE", "memberID": member, "alarm": name}).to_string();
            for body in [off, alarm("DEACTIVATE", name)] {
                server.call("maintenance/alarm", &body).await;
            }
            is_ok(&client).await;
        }
    }
}

#[tokio::test]
async fn etcd_that_denies_a_right_is_down() {
    for version in [Version::Current, Version::Old] {
        let mut server = EtcdServer::start_with(version).await;
        let base64 = |text: &str| {
            // The gateway takes keys in base64.
            const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut out = String::new();
            for three in text.as_bytes().chunks(3) {
                let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
                for place in 0..4 {
                    let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
                    out.push(if place > three.len() { '=' } else { char::from(digit) });
                }
            }
            out
        };
        // Writers may do all in the namespace, readers read it, others work elsewhere.
        for (name, kind, from, to) in [
            ("writer", "READWRITE", "dlock/", "dlock0"),
            ("reader", "READ", "dlock/", "dlock0"),
            ("other", "READWRITE", "else/", "else0"),
        ] {
            let permission = json!({"permType": kind, "key": base64(from), "range_end": base64(to)});
            for (what, body) in [
                ("auth/role/add", json!({"name": name})),
                ("auth/role/grant", json!({"name": name, "perm": permission})),
                ("auth/user/add", json!({"name": name, "password": "secret"})),
                ("auth/user/grant", json!({"user": name, "role": name})),
            ] {
                let answer = server.call(what, &body.to_string()).await;
                assert!(answer.get("code").is_none(), "{what}: {answer}");
            }
        }
        server.require_password("of-root").await;
        let client = |name: &str| Client::new(&server.url().replace("://", &format!("://{name}:secret@"))).unwrap();
        let writer = client("writer");
        is_ok(&writer).await;
        writer.lock("k").acquire().await.unwrap().release().await.unwrap();
        is_ok(&writer).await;
        is_down(&client("reader"), "permission").await;
        is_down(&client("other"), "permission").await;
    }
}

#[tokio::test]
async fn local_without_a_place_for_files_is_down() {
    let path = std::env::temp_dir().join(format!("dlock-health-{}", std::process::id()));
    let client = Client::new(&format!("local://{}", path.display())).unwrap();
    is_ok(&client).await;
    assert!(std::fs::read_dir(&path).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with("probe")));
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    is_only_down(&client, "director").await;
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn memory_is_well_until_it_is_closed() {
    let client = Client::new("memory:").unwrap();
    is_ok(&client).await;
    client.close(Duration::ZERO).await.unwrap();
    is_only_down(&client, "closed").await;
}
