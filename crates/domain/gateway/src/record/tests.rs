//! How a line looks, that it cannot be forged, and the way to the file.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use atoll_model::{Health, Instance};
use atoll_runtime::{Clock, Restart, Tasks};
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::config::{AccessLog, LogFormat};
use crate::testing::route_of;

fn record() -> Record {
    let instance = Instance {
        id: "users-1".parse().unwrap(),
        service: "users".parse().unwrap(),
        address: "10.0.0.5:8080".parse().unwrap(),
        weight: 1,
        health: Health::Passing,
        note: String::new(),
        tags: Vec::new(),
        metadata: Default::default(),
    };
    Record {
        // 2024-02-29T23:59:59.007Z
        at: UNIX_EPOCH + Duration::from_millis(1_709_251_199_007),
        client_ip: [10, 0, 0, 1].into(),
        version: Version::HTTP_11,
        method: Method::GET,
        host: "shop.example".into(),
        path: "/users/7".into(),
        status: 200,
        route: Some(Arc::new(route_of(
            "/users/{path*}",
            "/users/{path*}",
            "users",
        ))),
        endpoint: Some(Arc::new(Endpoint::new(&instance))),
        duration: Duration::from_micros(3_214),
        bytes_in: 5,
        bytes_out: 70,
        attempts: 2,
        request_id: "4f1c".into(),
        trace_id: Some(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        blame: None,
        reason: None,
    }
}

fn as_text(record: &Record) -> String {
    let mut line = String::new();
    text(record, &mut line);
    line
}

fn as_json(record: &Record) -> String {
    let mut line = String::new();
    json(record, &mut line);
    line
}

#[test]
fn a_text_line_is_for_people() {
    assert_eq!(
        as_text(&record()),
        "2024-02-29T23:59:59.007Z 10.0.0.1 GET shop.example /users/7 200 3.214ms /users/{path*} users-1 id=4f1c attempts=2 trace=0af7651916cd43dd8448eb211c80319c\n"
    );
    let refused = Record {
        route: None,
        endpoint: None,
        attempts: 0,
        trace_id: None,
        status: 408,
        host: "".into(),
        blame: Some(Blame::Client),
        reason: Some("head_timeout"),
        ..record()
    };
    assert_eq!(
        as_text(&refused),
        "2024-02-29T23:59:59.007Z 10.0.0.1 GET - /users/7 408 3.214ms - - id=4f1c blame=client reason=head_timeout\n"
    );
}

#[test]
fn a_json_line_is_one_object() {
    assert_eq!(
        as_json(&record()),
        concat!(
            r#"{"time":"2024-02-29T23:59:59.007Z","client_ip":"10.0.0.1","http_version":"1.1","#,
            r#""method":"GET","host":"shop.example","path":"/users/7","status":200,"#,
            r#""duration_s":0.003214,"bytes_in":5,"bytes_out":70,"attempts":2,"#,
            r#""route":"/users/{path*}","service":"users","instance":"users-1","#,
            r#""address":"10.0.0.5:8080","request_id":"4f1c","#,
            r#""trace_id":"0af7651916cd43dd8448eb211c80319c"}"#,
            "\n"
        )
    );
}

#[test]
fn days_are_counted_by_the_calendar() {
    for (seconds, day) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        (1_798_761_599, "2026-12-31T23:59:59.000Z"),
    ] {
        let at = UNIX_EPOCH + Duration::from_secs(seconds);
        let line = as_text(&Record { at, ..record() });
        assert!(line.starts_with(day), "{line}");
    }
}

proptest! {
    #[test]
    fn a_client_cannot_forge_a_line(path in "\\PC{0,20}[\\x00-\\x20\"\\\\\u{7f}\u{85}\u{2028}\u{202e}]{0,6}[a-z\u{1b}]{0,5}") {
        let record = Record {
            path: path.clone().into(),
            host: path.clone().into(),
            request_id: path.clone().into(),
            ..record()
        };
        let line = as_text(&record);
        let unsafe_in_line = |c: char| c.is_control() || "\u{2028}\u{202e}".contains(c);
        prop_assert_eq!(line.split(' ').count(), 12, "{:?}", line);
        prop_assert!(!line.trim_end_matches('\n').contains(unsafe_in_line));

        let line = as_json(&record);
        prop_assert!(!line.trim_end_matches('\n').contains(unsafe_in_line));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(read["path"].as_str(), Some(&path[..]));
        prop_assert_eq!(read["host"].as_str(), Some(&path[..]));
        prop_assert_eq!(read["request_id"].as_str(), Some(&path[..]));
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_does_not_touch_the_others() {
    let metrics = Arc::new(GatewayMetrics::default());
    let (recorders, recorded) = recorders(2, 3, &metrics);
    for _ in 0..5 {
        recorders[0].push(record());
    }
    recorders[1].push(record());
    assert_eq!(metrics.records_dropped.get(), 2);
    drop(recorded);
    recorders[1].push(record());
    assert_eq!(metrics.records_dropped.get(), 3);
}

struct Writing {
    tasks: Tasks,
    recorder: Recorder,
    settings: watch::Sender<AccessLog>,
    metrics: Arc<GatewayMetrics>,
}

fn start(format: LogFormat, default_path: &Path) -> Writing {
    let metrics = Arc::new(GatewayMetrics::default());
    let (mut recorders, recorded) = recorders(1, 100, &metrics);
    let (settings, receiver) = watch::channel(AccessLog { format, path: None });
    let tasks = Tasks::root(Clock::system());
    let path = default_path.to_owned();
    tasks.run("access-log", Restart::WithBackoff, move |stop| {
        write(recorded.clone(), receiver.clone(), path.clone(), stop)
    });
    Writing {
        tasks,
        recorder: recorders.remove(0),
        settings,
        metrics,
    }
}

/// Waits until `path` has `count` lines.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn asked(path: &str) -> Record {
    Record {
        path: path.into(),
        ..record()
    }
}

#[tokio::test]
async fn lines_are_appended_and_those_left_are_written_at_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    std::fs::write(&path, "from before\n").unwrap();
    let writing = start(LogFormat::Text, &path);
    writing.recorder.push(asked("/1"));
    assert_eq!(lines(&path, 2).await[0], "from before");
    for number in 2..50 {
        writing.recorder.push(asked(&format!("/{number}")));
    }
    writing.tasks.stop(Duration::from_secs(30)).await.unwrap();
    let lines = lines(&path, 50).await;
    assert_eq!(lines.len(), 50);
    assert!(lines[49].contains(" /49 "));
}

#[tokio::test]
async fn a_new_file_is_private_and_a_moved_one_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let writing = start(LogFormat::Json, &path);
    writing.recorder.push(asked("/1"));
    lines(&path, 1).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    writing.recorder.push(asked("/2"));
    assert!(lines(&path, 1).await[0].contains("\"/2\""));
    assert_eq!(lines(&rotated, 1).await.len(), 1);
    writing.tasks.stop(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn settings_take_effect_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let other = folder.path().join("other.log");
    let writing = start(LogFormat::Text, &path);
    writing.recorder.push(asked("/1"));
    lines(&path, 1).await;
    writing.settings.send_replace(AccessLog {
        format: LogFormat::Json,
        path: Some(other.clone()),
    });
    writing.recorder.push(asked("/2"));
    assert!(lines(&other, 1).await[0].starts_with('{'));
    writing.tasks.stop(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_writing_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/access.log");
    let writing = start(LogFormat::Text, &path);
    writing.recorder.push(asked("/1"));
    while writing.metrics.records_dropped.get() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::create_dir(folder.path().join("later")).unwrap();
    writing.recorder.push(asked("/2"));
    assert!(lines(&path, 1).await[0].contains(" /2 "));
    assert_eq!(writing.metrics.records_dropped.get(), 1);
    writing.tasks.stop(Duration::from_secs(30)).await.unwrap();
}
