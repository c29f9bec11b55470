//! Answers that many wait for at once: those whom one change wakes and who asked the same
//! get one answer, made once. Nothing is kept beyond that: the answer goes with the last
//! of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::wire::Refusal;

/// Questions before those are forgotten whose answer is gone.
const QUESTIONS_LEAST: usize = 64;

/// What is asked, and at which index.
type Question = (String, u64);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    answers: Mutex<HashMap<Question, Weak<OnceCell<Bytes>>>>,
}

impl Shared {
    /// The answer to `question` at `index`: made by the first who asks, and waited for by
    /// those who come meanwhile.
    pub(crate) async fn answer(
        &self,
        question: String,
        index: u64,
        make: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        let cell = self.cell((question, index));
        cell.get_or_try_init(|| make).await.cloned()
    }

    fn cell(&self, question: Question) -> Arc<OnceCell<Bytes>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
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
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn of_those_who_ask_at_once_one_makes_the_answer_and_later_ones_a_new_one() {
        let (shared, made) = (Shared::default(), AtomicU32::new(0));
        let ask = |question: &'static str, index| {
            shared.answer(question.to_owned(), index, async {
                tokio::task::yield_now().await;
                Ok(made.fetch_add(1, Ordering::Relaxed).to_string().into())
            })
        };
        let all = futures_util::future::join_all((0..1000).map(|_| ask("a", 1))).await;
        assert!(all.into_iter().all(|answer| answer.unwrap() == "0"));
        // Nothing is kept, and another index or question is another answer.
        let three = tokio::join!(ask("a", 1), ask("a", 2), ask("b", 1));
        let mut three = [three.0, three.1, three.2].map(|answer| answer.unwrap());
        three.sort();
        assert_eq!(three, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn questions_whose_answer_is_gone_do_not_gather() {
        let shared = Shared::default();
        for index in 0..10_000 {
            let make = async { Ok(Bytes::new()) };
            assert!(shared.answer("a".to_owned(), index, make).await.is_ok());
        }
        assert!(shared.answers.lock().unwrap().len() < 1000);
    }
}
