//! Answers that many wait for at once: those whom one change wakes and who asked the same
//! get one answer, made once.
//!
//! Tasks that one change wakes run one after the other, and the last of ten thousand
//! comes when the first is long done; so an answer is also kept for a moment, within
//! limits. It is told only at the index that it was made for, so that nobody is told
//! something older than what woke him.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::wire::Refusal;

/// Questions before those are forgotten whose answer is gone.
const QUESTIONS_LEAST: usize = 64;
/// How long an answer is kept that nobody waits for: time for ten thousand tasks to run.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Bytes of the answers that are kept; the oldest go first.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// What is asked, and at which index.
type Question = (String, u64);

/// Answers of one kind, by question and index.
pub(crate) struct Shared<T> {
    /// How much an answer weighs that is kept for a moment; none is without it.
    bytes_of: Option<fn(&T) -> usize>,
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    answers: HashMap<Question, Weak<OnceCell<T>>>,
    kept: VecDeque<Kept<T>>,
    kept_bytes: usize,
}

struct Kept<T> {
    until: Instant,
    bytes: usize,
    _cell: Arc<OnceCell<T>>,
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T: Clone> Shared<T> {
    /// Answers that go with the last who waits for them.
    pub(crate) fn passing() -> Self {
        Self::new(None)
    }

    /// Answers that are kept for a moment.
    pub(crate) fn kept(bytes_of: fn(&T) -> usize) -> Self {
        Self::new(Some(bytes_of))
    }

    fn new(bytes_of: Option<fn(&T) -> usize>) -> Self {
        let inner = Inner {
            answers: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
        };
        Self {
            bytes_of,
            inner: Mutex::new(inner),
        }
    }

    /// The answer to `question` at `index`: made by the first who asks, and waited for by
    /// those who come meanwhile. When the first gives up, the next makes it.
    pub(crate) async fn answer(
        &self,
        question: String,
        index: u64,
        make: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let cell = self.cell((question, index));
        let mut made = false;
        let make = async {
            made = true;
            make.await
        };
        let answer = cell.get_or_try_init(|| make).await?.clone();
        if made && let Some(bytes_of) = self.bytes_of {
            self.keep(bytes_of(&answer), cell);
        }
        Ok(answer)
    }

    fn cell(&self, question: Question) -> Arc<OnceCell<T>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tidy();
        let answers = &mut inner.answers;
        if let Some(cell) = answers.get(&question).and_then(Weak::upgrade) {
            return cell;
        }
        // As many have gone as there is room: each is looked at once in a while.
        if answers.len() >= QUESTIONS_LEAST && answers.len() == answers.capacity() {
            answers.retain(|_, cell| cell.strong_count() > 0);
        }
        let cell = Arc::new(OnceCell::new());
        answers.insert(question, Arc::downgrade(&cell));
        cell
    }

    fn keep(&self, bytes: usize, cell: Arc<OnceCell<T>>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.kept_bytes += bytes;
        inner.kept.push_back(Kept {
            until: Instant::now() + KEPT_FOR,
            bytes,
            _cell: cell,
        });
        inner.tidy();
    }
}

impl<T> Inner<T> {
    fn tidy(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.kept.front()
            && (oldest.until <= now || self.kept_bytes > KEPT_BYTES_MAX)
        {
            self.kept_bytes -= oldest.bytes;
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::*;

    fn kept() -> Shared<Bytes> {
        Shared::kept(Bytes::len)
    }

    async fn ask(shared: &Shared<Bytes>, made: &AtomicU32, question: &str, index: u64) -> Bytes {
        let make = async {
            tokio::task::yield_now().await;
            Ok(made.fetch_add(1, Ordering::Relaxed).to_string().into())
        };
        let answer = shared.answer(question.to_owned(), index, make).await;
        answer.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_ask_at_once_one_makes_the_answer_and_who_comes_late_has_it_too() {
        let (shared, made) = (kept(), AtomicU32::new(0));
        let all = (0..1000).map(|_| ask(&shared, &made, "a", 1));
        let all = futures_util::future::join_all(all).await;
        assert!(all.into_iter().all(|answer| answer == "0"));
        assert_eq!(ask(&shared, &made, "a", 1).await, "0", "a moment later");
        // Another index or question is another answer.
        assert_eq!(ask(&shared, &made, "a", 2).await, "1");
        assert_eq!(ask(&shared, &made, "b", 1).await, "2");
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!(ask(&shared, &made, "a", 1).await, "3");
    }

    #[tokio::test]
    async fn when_the_first_gives_up_the_next_makes_the_answer() {
        let (shared, made) = (Shared::passing(), AtomicU32::new(0));
        let first = shared.answer("a".to_owned(), 1, std::future::pending());
        let second = ask(&shared, &made, "a", 1);
        tokio::pin!(second);
        tokio::select! {
            biased;
            _ = first => panic!("never"),
            _ = &mut second => panic!("the first is at it"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(second.await, "0");
        // Nothing is kept.
        assert_eq!(ask(&shared, &made, "a", 1).await, "1");
    }

    #[tokio::test(start_paused = true)]
    async fn neither_questions_nor_answers_gather() {
        let shared = kept();
        for index in 0..10_000 {
            let make = async { Ok(Bytes::from(vec![0; KEPT_BYTES_MAX / 100])) };
            assert!(shared.answer("a".to_owned(), index, make).await.is_ok());
        }
        let inner = shared.inner.lock().unwrap();
        assert!(inner.answers.len() < 1000);
        assert!(inner.kept.len() <= 101 && inner.kept_bytes <= KEPT_BYTES_MAX);
    }
}
