//! Atoll killed with -9: nothing stays.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use atoll_fleet::{Fleet, FleetError};
use atoll_runtime::{Clock, Tasks};

use crate::world::{World, eventually, helper, kill_9, processes_of, runs, settings};

/// A process that is killed when the test ends, however it does.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process with a fleet of one replica, which has a grandchild that ignores SIGTERM.
fn host(folder: &Path) -> Reaped {
    host_as("host", folder)
}

fn host_as(mode: &str, folder: &Path) -> Reaped {
    let data_dir = folder.join(".atoll");
    let child = Command::new(helper())
        .arg(mode)
        .args([&data_dir, folder])
        .stdout(Stdio::piped())
        .spawn();
    let mut host = Reaped(child.unwrap());
    let mut line = String::new();
    let stdout = host.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    host
}

/// The guardian of `host`, and its process group.
fn guardian_of(host: u32) -> Option<(u32, u32)> {
    let items = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = items.filter_map(|item| item.file_name().to_str()?.parse::<u32>().ok());
    pids.find_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_it = fields[1] == host.to_string() && words.ends_with(b"guardian\0");
        is_it.then(|| (pid, fields[2].parse().unwrap()))
    })
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn when_the_host_is_killed_its_replicas_and_their_grandchildren_vanish() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    let pid = host.0.id();
    let (guardian, group) = guardian_of(pid).unwrap();
    assert_eq!(guardian, group, "Ctrl-C in the terminal does not reach it");
    assert_eq!(processes_of(folder.path()).len(), 3);
    kill_9(pid);
    host.0.wait().unwrap();
    eventually("nothing is left", || processes_of(folder.path()).is_empty()).await;
    eventually("the guardian ends", || !runs(guardian)).await;
}

#[tokio::test]
async fn a_guardian_that_is_killed_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    let pid = host.0.id();
    let (first, _) = guardian_of(pid).unwrap();
    kill_9(first);
    let other = || guardian_of(pid).is_some_and(|(guardian, _)| guardian != first);
    eventually("another guardian", other).await;
    kill_9(pid);
    host.0.wait().unwrap();
    eventually("nothing is left", || processes_of(folder.path()).is_empty()).await;
}

#[tokio::test]
async fn what_an_earlier_run_left_is_ended_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = host(folder.path());
    let pid = host.0.id();
    let (guardian, _) = guardian_of(pid).unwrap();
    signal(pid, "-STOP"); // else it would start another guardian
    kill_9(guardian);
    kill_9(pid);
    host.0.wait().unwrap();
    let left = processes_of(folder.path());
    assert_eq!(left.len(), 3, "nobody ended them");
    let world = World::in_folder(folder).await;
    assert!(!left.iter().any(|pid| runs(*pid)));
    world.fleet.stop().await;
}

#[tokio::test]
async fn the_next_start_ends_the_marked_and_spares_a_reused_process_id() {
    let folder = tempfile::tempdir().unwrap();
    let mark = "00112233445566aa";
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    };
    // Started a moment before the kill, so that its line was never written.
    let mut unwritten = Reaped(sleep().env("ATOLL_RUN", mark).spawn().unwrap());
    let stranger = Reaped(sleep().spawn().unwrap());
    let state = folder.path().join(".atoll/fleet");
    std::fs::create_dir_all(&state).unwrap();
    let text = format!("run {mark}\n+{} 1\n", stranger.0.id());
    std::fs::write(state.join("replicas"), text).unwrap();
    let world = World::in_folder(folder).await;
    assert!(!unwritten.0.wait().unwrap().success());
    assert!(runs(stranger.0.id()));
    world.fleet.stop().await;
}

#[tokio::test]
async fn a_second_fleet_in_the_same_folder_is_refused() {
    let world = World::new().await;
    let tasks = Tasks::root(Clock::system());
    let neighbours = Arc::clone(&world.neighbours);
    let settings = settings(world.folder.path());
    let second = Fleet::start(&tasks, neighbours.clone(), neighbours, settings).await;
    assert!(matches!(second, Err(FleetError::InUse { .. })));
    world.fleet.stop().await;
}

#[tokio::test]
async fn orphans_that_become_our_children_are_reaped() {
    let folder = tempfile::tempdir().unwrap();
    // As process 1 of a container would be.
    let _host = host_as("subreaper", folder.path());
    let before = processes_of(folder.path());
    assert_eq!(before.len(), 3);
    let exists = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    kill_9(before[0]); // the leader: it was started first
    eventually("all three are dead and reaped", || {
        !before.iter().any(exists)
    })
    .await;
    eventually("the next runs", || processes_of(folder.path()).len() == 3).await;
}
