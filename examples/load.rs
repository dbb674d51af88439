#![allow(missing_docs, clippy::all, clippy::pedantic)]
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
fn call(s: &mut TcpStream, key: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let req = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    s.write_all(req.as_bytes()).unwrap();
    let mut buf = Vec::with_capacity(4096);
    let mut tmp = [0u8; 8192];
    loop {
        let n = s.read(&mut tmp).unwrap();
        assert!(n > 0, "closed");
        buf.extend_from_slice(&tmp[..n]);
        if let Some(end) = buf.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = std::str::from_utf8(&buf[..end]).unwrap().to_lowercase();
            let len: usize = head
                .split("content-length: ")
                .nth(1)
                .unwrap()
                .split("\r\n")
                .next()
                .unwrap()
                .parse()
                .unwrap();
            while buf.len() < end + 4 + len {
                let n = s.read(&mut tmp).unwrap();
                buf.extend_from_slice(&tmp[..n]);
            }
            return (
                head[9..12].parse().unwrap(),
                String::from_utf8_lossy(&buf[end + 4..]).into_owned(),
            );
        }
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "hash" {
        let m = inboxd::clock::Machine;
        for threads in [1, 2] {
            let t = Instant::now();
            let hs: Vec<_> = (0..threads)
                .map(|_| {
                    std::thread::spawn(|| {
                        let m = inboxd::clock::Machine;
                        for _ in 0..4000 {
                            inboxd::model::password::MailPassword::generate(&m)
                                .hash(&m)
                                .unwrap();
                        }
                    })
                })
                .collect();
            for h in hs {
                h.join().unwrap();
            }
            println!(
                "{threads} threads: {:.0}/s",
                4000.0 * threads as f64 / t.elapsed().as_secs_f64()
            );
        }
        let _ = m;
        return;
    }
    let (addr, sa, clients, secs, one) = (
        a[1].clone(),
        a[2].clone(),
        a[3].parse::<usize>().unwrap(),
        a[4].parse::<u64>().unwrap(),
        a.get(5).is_some(),
    );
    let mut s = TcpStream::connect(&addr).unwrap();
    let run = std::process::id();
    let keys: Vec<String> = (0..if one { 1 } else { clients })
        .map(|i| {
            let (st, b) = call(
                &mut s,
                &sa,
                "POST",
                "/v1/tenants",
                &format!("{{\"name\":\"Load {run} {i}\"}}"),
            );
            assert!(st == 201, "{b}");
            b.split("\"tk_")
                .nth(1)
                .map(|k| format!("tk_{}", k.split('"').next().unwrap()))
                .unwrap()
        })
        .collect();
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let hs: Vec<_> = (0..clients)
        .map(|i| {
            let (addr, key) = (addr.clone(), keys[i % keys.len()].clone());
            let done = done.clone();
            std::thread::spawn(move || {
                let mut s = TcpStream::connect(&addr).unwrap();
                s.set_nodelay(true).unwrap();
                let mut lat = Vec::new();
                let mut n = 0;
                while begun.elapsed() < Duration::from_secs(secs) {
                    let t = Instant::now();
                    let (st, b) = call(
                        &mut s,
                        &key,
                        "POST",
                        "/v1/inboxes",
                        &format!("{{\"username\":\"u{run}x{i}x{n}\"}}"),
                    );
                    assert!(st == 201, "{st} {b}");
                    lat.push(t.elapsed().as_secs_f64() * 1e3);
                    n += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                lat
            })
        })
        .collect();
    let mut lat: Vec<f64> = hs.into_iter().flat_map(|h| h.join().unwrap()).collect();
    let el = begun.elapsed().as_secs_f64();
    lat.sort_by(|a, b| a.total_cmp(b));
    println!(
        "{clients} clients: {:.0}/s n={} p50 {:.2} p99 {:.2} max {:.2} ms",
        lat.len() as f64 / el,
        lat.len(),
        lat[lat.len() / 2],
        lat[lat.len() * 99 / 100],
        lat[lat.len() - 1]
    );
}
