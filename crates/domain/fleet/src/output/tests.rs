//! Lines: cutting, bounds, following, pacing.

use super::*;

fn lines_of(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(LogStream::Stdout);
    let mut lines = Vec::new();
    for chunk in chunks {
        splitter.split(chunk, |line| lines.push(line.to_vec()));
    }
    lines.extend(splitter.finish());
    lines
}

fn output(lines: &broadcast::Sender<LogLine>) -> Output {
    Output {
        source: "users-1".parse().unwrap(),
        path: PathBuf::from("unused"),
        clock: Clock::system(),
        ring: Mutex::default(),
        lines: lines.clone(),
    }
}

#[test]
fn lines_are_the_same_however_the_bytes_are_cut() {
    let text = b"one\n\ntwo three\nfour";
    let expected: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    for cut in 0..text.len() {
        assert_eq!(lines_of(&[&text[..cut], &text[cut..]]), expected);
    }
}

#[test]
fn a_line_without_end_is_cut_at_the_limit_and_nothing_is_lost() {
    let long = vec![b'x'; 3 * LINE_BYTES_MAX + 5];
    let lines = lines_of(&[&long[..7], &long[7..]]);
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    assert_eq!(lines.concat(), long);
}

#[test]
fn a_long_line_is_not_cut_inside_a_character() {
    for shift in 0..3 {
        let long = format!("{}{}", "x".repeat(shift), "€".repeat(LINE_BYTES_MAX));
        for line in lines_of(&[long.as_bytes()]) {
            assert!(String::from_utf8(line).is_ok(), "shift {shift}");
        }
    }
}

#[test]
fn a_long_line_of_no_characters_is_cut_all_the_same() {
    let long = vec![0x80; 2 * LINE_BYTES_MAX];
    let lines = lines_of(&[&long]);
    assert!(lines.iter().all(|line| line.len() <= LINE_BYTES_MAX));
    assert_eq!(lines.concat(), long);
}

#[test]
fn the_ring_keeps_the_newest_within_its_bounds() {
    let output = output(&broadcast::Sender::new(1));
    for number in 0..2 * RING_LINES_MAX {
        output.note(number.to_string());
    }
    let last = output.last(usize::MAX);
    assert_eq!(last.len(), RING_LINES_MAX);
    assert_eq!(&*last[RING_LINES_MAX - 1].text, "999");
    for _ in 0..100 {
        output.note("x".repeat(LINE_BYTES_MAX));
    }
    assert!(lock(&output.ring).bytes <= RING_BYTES_MAX);
}

#[tokio::test]
async fn a_slow_follower_is_told_how_many_lines_it_lost() {
    let lines = broadcast::Sender::new(4);
    let output = output(&lines);
    let mut follower = Follower(lines.subscribe());
    for number in 0..10 {
        output.note(number.to_string());
    }
    assert_eq!(follower.next().await, Some(Followed::Dropped(6)));
    let Some(Followed::Line(line)) = follower.next().await else {
        panic!("a line follows");
    };
    assert_eq!(&*line.text, "6");
}

#[tokio::test(start_paused = true)]
async fn reading_is_held_to_its_speed_after_the_first_second() {
    let mut pace = Pace::new();
    let began = Instant::now();
    let megabytes = 80;
    for _ in 0..megabytes * 16 {
        pace.spent(64 * 1024).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    assert!((8.9..9.2).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn the_file_is_bounded_and_holds_the_newest_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logs/users-1.log");
    let mut file = LogFile::open(&path, 10_000).await;
    for number in 0..1_000 {
        file.add(
            SystemTime::UNIX_EPOCH,
            LogStream::Stdout,
            &number.to_string(),
        );
        file.flush().await;
    }
    let newest = std::fs::read_to_string(&path).unwrap();
    let older = std::fs::read_to_string(folder.path().join("logs/users-1.log.1")).unwrap();
    assert!(newest.len() + older.len() <= 10_000);
    assert!(
        newest.ends_with("1970-01-01T00:00:00.000Z stdout 999\n"),
        "{newest}"
    );
    let last_of_older = older.lines().last().unwrap().rsplit(' ').next().unwrap();
    let first = newest.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(
        last_of_older.parse::<u32>().unwrap() + 1,
        first.parse::<u32>().unwrap(),
        "nothing is lost between the halves"
    );
}
