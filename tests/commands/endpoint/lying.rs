//! Every fault of `wires` at the requests of a build: what passes leaves the same dataset, and
//! what does not ends in one line with what came before kept, in bounded memory.

mod wires;

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::Folder;
use super::raw_server::{RawServer, Wire};
use crate::{refusal, succeed, text};
use wires::{Ends::*, Fault, faults};

/// What the instructions and temperatures of [`FLAGS`] come to.
const TOTAL: usize = 12;
const FLAGS: &str = "--temperatures 0,0.7 --samples 1";

fn command(folder: &Folder, url: &str, out: &str, flags: &str) -> Command {
    folder.command(url, out, &format!("{FLAGS} {flags}"))
}

fn dataset(folder: &Folder, out: &str) -> Vec<u8> {
    std::fs::read(folder.path(out).join("dataset.parquet")).unwrap()
}

/// Runs to the end; also gives the most memory it had, in MB.
fn watched(command: &mut Command) -> (Output, u64) {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(kb.unwrap_or(0) / 1024);
        std::thread::sleep(Duration::from_millis(3));
    }
    (child.wait_with_output().unwrap(), most)
}

/// Far below what any flood is of, far above what 12 requests and their bodies are.
const MEMORY_MB: u64 = 200;

#[test]
fn every_fault_that_passes_leaves_the_same_dataset() {
    let passing: Vec<&Fault> = faults()
        .iter()
        .filter(|fault| !matches!(fault.ends, Final(_)))
        .collect();
    // Each build gives each of its requests another fault; all builds together every fault to
    // every request.
    let builds = match std::env::var("LENAWARE_FAULTS").as_deref() {
        Ok("all") => passing.len(),
        _ => passing.len().div_ceil(TOTAL) + 1,
    };
    let turns: Vec<usize> = (0..builds).map(|i| i * (TOTAL - 1)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(turn) = turns.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let folder = Folder::new();
                    let met: Vec<&Fault> = (0..TOTAL)
                        .map(|i| passing[(turn + i) % passing.len()])
                        .collect();
                    let names: Vec<&str> = met.iter().map(|fault| fault.name).collect();
                    let wires: Vec<Arc<Wire>> = met.iter().map(|f| f.wire.clone()).collect();
                    let server = RawServer::new(move |before, again| match again {
                        true => None,
                        false => Some(wires[before % wires.len()].clone()),
                    });
                    let flags = "--timeout 3 --retries 9";
                    let mut command = command(&folder, &server.url(), "out", flags);
                    let (output, most) = watched(&mut command);
                    let said = text(&output.stderr);
                    assert!(output.status.success(), "{names:?}: {said}");
                    let well = met.iter().filter(|fault| fault.ends == Well).count();
                    assert!(
                        server.asked() >= 2 * TOTAL - well,
                        "{names:?}: not all were met"
                    );
                    // Nobody meets a fault twice: this is the undisturbed one.
                    succeed(&mut self::command(&folder, &server.url(), "whole", ""));
                    assert_eq!(folder.rows("whole").len(), TOTAL);
                    let same = dataset(&folder, "out") == dataset(&folder, "whole");
                    assert!(same, "{names:?}");
                    assert!(most < MEMORY_MB, "{names:?}: {most} MB");
                }
            });
        }
    });
}

#[test]
fn every_fault_that_stays_is_one_line_and_loses_nothing() {
    let next = AtomicUsize::new(0);
    let highest = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(fault) = faults().get(next.fetch_add(1, Ordering::SeqCst)) {
                    let words = match fault.ends {
                        Well => continue,
                        Passing(words) | Final(words) => words,
                    };
                    let name = fault.name;
                    let folder = Folder::new();
                    let wire = fault.wire.clone();
                    let ill = Arc::new(AtomicBool::new(true));
                    let is_ill = ill.clone();
                    let server = RawServer::new(move |before, again| {
                        let meets = before >= 2 && !again && is_ill.load(Ordering::SeqCst);
                        meets.then(|| wire.clone())
                    });
                    let flags = "--timeout 3 --retries 0 --concurrency 1";
                    let (output, most) =
                        watched(&mut command(&folder, &server.url(), "out", flags));
                    let line = refusal(&output, 1);
                    assert!(line.contains(words), "{name}: {line}");
                    // Another model is for another folder.
                    if name != "another model" {
                        let kept = format!("2 of {TOTAL} samples kept");
                        assert!(line.contains(&kept), "{name}: {line}");
                        assert!(line.contains("the same command continues"), "{line}");
                    }
                    assert!(!line.contains(char::is_control), "{name}: {line:?}");
                    assert!(line.len() < 1000, "{name}: {line}");
                    // Of the name is known once the next request may be on its way.
                    let (asked, more) = (server.asked(), usize::from(name == "another model"));
                    assert_eq!(folder.lines("out"), 2, "{name}");
                    assert!((3..=3 + more).contains(&asked), "{name}: {asked}");
                    assert!(most < MEMORY_MB, "{name}: {most} MB");
                    highest.fetch_max(most as usize, Ordering::SeqCst);
                    // Well again, it is asked for the rest alone.
                    ill.store(false, Ordering::SeqCst);
                    succeed(&mut command(&folder, &server.url(), "out", ""));
                    assert_eq!(server.asked(), asked + TOTAL - 2, "{name}");
                    succeed(&mut command(&folder, &server.url(), "whole", ""));
                    assert!(
                        dataset(&folder, "out") == dataset(&folder, "whole"),
                        "{name}"
                    );
                }
            });
        }
    });
    println!("at most {} MB", highest.into_inner());
}
