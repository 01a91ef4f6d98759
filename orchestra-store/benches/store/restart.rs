//! From `kill -9` amid writes to an answer, with many objects; what they take in memory; and whether all that was
//! acknowledged is there.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use orchestra_core::store::{Store, Txn};
use orchestra_store::{DurableStore, EtcdStore, etcd::testing::Etcd};
use tokio::time::{Instant, sleep};

use crate::{
    load::{count, fill, key, value},
    measure::{Sizes, children, resident_bytes},
    report::{Better, Report},
};

/// The first argument of the process that is killed.
pub(crate) const CHILD: &str = "serve";

/// The objects of the smaller and of the larger store.
const OBJECTS: [usize; 2] = [50_000, 150_000];
/// How many writes are acknowledged before the kill, at least; they go on until it comes.
const ACKNOWLEDGED: usize = 200;
/// What is written until the kill.
const WRITTEN: &str = "acknowledged";

pub(crate) async fn run(sizes: Sizes, report: &mut Report) -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut etcd = Etcd::start().await;
    let mut seconds = [Vec::new(), Vec::new()];
    let mut bytes = [Vec::new(), Vec::new()];
    let mut acknowledged = [0, 0];
    let (mut filled, enough) = (0, sizes.of(ACKNOWLEDGED));
    for objects in OBJECTS.map(|objects| sizes.of(objects)) {
        {
            let store = DurableStore::open(directory.path()).map_err(io::Error::other)?;
            fill(&store, "restart", filled, objects).await?;
            let store = EtcdStore::connect(etcd.options()).await.map_err(io::Error::other)?;
            fill(&store, "restart", filled, objects).await?;
        }
        filled = objects;
        seconds = [Vec::new(), Vec::new()];
        let mut resident = [Vec::new(), Vec::new()];
        // What opens first was not killed.
        restart_durable(directory.path(), &mut acknowledged[0], enough)?;
        write_until_killed(&mut etcd, &mut acknowledged[1], enough).await?;
        for counts in sizes.turns() {
            let ours = restart_durable(directory.path(), &mut acknowledged[0], enough)?;
            let peer = restart_etcd(&mut etcd, objects, acknowledged[1]).await?;
            write_until_killed(&mut etcd, &mut acknowledged[1], enough).await?;
            for (side, (took, held)) in [ours, peer].into_iter().enumerate().filter(|_| counts) {
                seconds[side].push(took);
                resident[side].push(held);
            }
        }
        etcd.restart().await?;
        for (bytes, resident) in bytes.iter_mut().zip(resident) {
            bytes.push(resident);
        }
    }
    let [ours, peer] = &seconds;
    let objects = sizes.of(OBJECTS[1]);
    report.tell(&format!("kill -9 to an answer, {objects} objects"), "s", Better::Less, [ours, peer])?;
    let more = (objects - sizes.of(OBJECTS[0])) as f64;
    let slope = |bytes: &[Vec<f64>]| -> Vec<f64> {
        bytes[1].iter().zip(&bytes[0]).map(|(large, small)| (large - small) / more).collect()
    };
    report.tell("memory of an object of 1 KiB", "bytes", Better::Less, [&slope(&bytes[0]), &slope(&bytes[1])])
}

/// Opens the store in `directory`, and says so; reads back what was `acknowledged` before, and says so; once there is a
/// line to read, writes and tells each number that is acknowledged, until it is killed.
pub(crate) async fn serve(directory: &str, acknowledged: &str) -> io::Result<()> {
    let store = DurableStore::open(directory).map_err(io::Error::other)?;
    let entry = store.get(&key("restart", 0)).await.map_err(io::Error::other)?;
    assert!(entry.is_some(), "objects are lost");
    println!("ready");
    check_written(&store, acknowledged.parse().map_err(io::Error::other)?).await?;
    println!("checked");
    io::stdin().read_line(&mut String::new())?;
    write_on(&store, |number| println!("{number}")).await
}

/// Reads back the numbers below `acknowledged`.
async fn check_written(store: &dyn Store, acknowledged: usize) -> io::Result<()> {
    for number in 0..acknowledged {
        let entry = store.get(&key(WRITTEN, number)).await.map_err(io::Error::other)?;
        let found = entry.map(|entry| count(&entry.value));
        assert_eq!(found, Some(number as u64), "write {number} of {acknowledged} is lost");
    }
    Ok(())
}

/// Writes the numbers that are not there, one after the other, and tells of each once it is acknowledged.
async fn write_on(store: &dyn Store, tell: impl Fn(usize)) -> io::Result<()> {
    for number in 0.. {
        if store.get(&key(WRITTEN, number)).await.map_err(io::Error::other)?.is_none() {
            let txn = Txn::create(key(WRITTEN, number), value(number as u64));
            store.commit(txn).await.map_err(io::Error::other)?;
            tell(number);
        }
    }
    Ok(())
}

/// The seconds from the start of a process to its first answer, and the bytes it holds then; it is killed as it writes, and
/// `acknowledged` is raised to what it told of.
fn restart_durable(directory: &Path, acknowledged: &mut usize, enough: usize) -> io::Result<(f64, f64)> {
    let start = Instant::now();
    let mut command = Command::new(env::current_exe()?);
    command.arg(CHILD).arg(directory).arg(acknowledged.to_string());
    let mut child = Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut output = BufReader::new(child.0.stdout.take().ok_or_else(|| io::Error::other("no output"))?);
    assert_eq!(line(&mut output)?.as_deref(), Some("ready"));
    let seconds = start.elapsed().as_secs_f64();
    let bytes = resident_bytes(&child.0.id().to_string())? as f64;
    assert_eq!(line(&mut output)?.as_deref(), Some("checked"), "what was acknowledged is not there");
    let mut input = child.0.stdin.take().ok_or_else(|| io::Error::other("no input"))?;
    input.write_all(b"\n")?;
    let mut told = 0;
    while let Some(number) = line(&mut output)? {
        *acknowledged = number.parse::<usize>().map_err(io::Error::other)? + 1;
        told += 1;
        if told == enough {
            child.0.kill()?;
        }
    }
    assert!(told >= enough, "it ended before it was killed");
    Ok((seconds, bytes))
}

/// The next whole line; `None` at the end.
fn line(output: &mut BufReader<ChildStdout>) -> io::Result<Option<String>> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    Ok(line.strip_suffix('\n').map(str::to_owned))
}

/// Writes until etcd is killed, which it is while it is written to; raises `acknowledged` to what it told of.
async fn write_until_killed(etcd: &mut Etcd, acknowledged: &mut usize, enough: usize) -> io::Result<()> {
    let store = EtcdStore::connect(etcd.options()).await.map_err(io::Error::other)?;
    let (told, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(*acknowledged)));
    let (counting, ending) = (Arc::clone(&told), Arc::clone(&end));
    let writing = tokio::spawn(async move {
        let tell = |number: usize| {
            ending.store(number + 1, Ordering::Relaxed);
            counting.fetch_add(1, Ordering::Relaxed);
        };
        write_on(&store, tell).await
    });
    while told.load(Ordering::Relaxed) < enough {
        assert!(!writing.is_finished(), "a write failed before the kill");
        sleep(Duration::from_millis(1)).await;
    }
    etcd.kill()?;
    writing.abort();
    // It was stopped, or failed for the kill.
    let _ = writing.await;
    *acknowledged = end.load(Ordering::Relaxed);
    Ok(())
}

/// The seconds from the start of etcd to its first answer, and the bytes it holds then; what was `acknowledged` before it
/// was killed is read back.
async fn restart_etcd(etcd: &mut Etcd, objects: usize, acknowledged: usize) -> io::Result<(f64, f64)> {
    let start = Instant::now();
    etcd.restart().await?;
    let store = EtcdStore::connect(etcd.options()).await.map_err(io::Error::other)?;
    let entry = store.get(&key("restart", objects - 1)).await.map_err(io::Error::other)?;
    assert!(entry.is_some(), "objects are lost");
    let seconds = start.elapsed().as_secs_f64();
    let process = children()?.pop().ok_or_else(|| io::Error::other("etcd has ended"))?;
    let bytes = resident_bytes(&process)? as f64;
    check_written(&store, acknowledged).await?;
    Ok((seconds, bytes))
}

/// A child that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, of which the caller has been told.
        let _: io::Result<()> = self.0.kill();
        let _: io::Result<std::process::ExitStatus> = self.0.wait();
    }
}
