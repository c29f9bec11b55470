//! Answers that are made in rounds: those who ask while one is being made share the next,
//! and nobody is told what was before he asked.
//!
//! A list of everything takes long to make, and three hundred clients that fetch it at
//! once would keep every core from whoever wants to renew. So at most one is being made
//! of each kind, however many ask.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// Rounds of one kind of answer.
pub(crate) struct Rounds<T> {
    /// The round that has not begun.
    next: Mutex<Arc<OnceCell<T>>>,
    /// Held while an answer is made.
    turn: tokio::sync::Mutex<()>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self {
            next: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl<T> fmt::Debug for Rounds<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").finish_non_exhaustive()
    }
}

impl<T: Clone> Rounds<T> {
    /// The answer of the next round; whoever is the first makes it, and if he gives up,
    /// another does.
    pub(crate) async fn join<E>(&self, make: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let round = Arc::clone(&self.next.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = round.get_or_try_init(|| async {
            let _turn = self.turn.lock().await;
            // It begins: who comes from now on may want to see something newer.
            *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
            make.await
        });
        Ok(answer.await?.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_asks_while_one_is_made_shares_the_next() {
        let (rounds, made) = (Rounds::default(), AtomicU32::new(0));
        let (may_end, begun) = (Semaphore::new(0), Semaphore::new(0));
        let ask = || {
            rounds.join(async {
                begun.add_permits(1);
                may_end.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(made.fetch_add(1, Ordering::Relaxed))
            })
        };
        let first = ask();
        let later = async {
            begun.acquire().await.unwrap().forget();
            let all = futures_util::future::join_all((0..300).map(|_| ask()));
            let release = async {
                tokio::task::yield_now().await;
                may_end.add_permits(2);
            };
            futures_util::future::join(all, release).await.0
        };
        let (first, later) = futures_util::future::join(first, later).await;
        assert_eq!(first, Ok(0));
        assert!(later.into_iter().all(|answer| answer == Ok(1)));
        may_end.add_permits(1);
        assert_eq!(ask().await, Ok(2), "nothing is kept");
    }

    #[tokio::test]
    async fn when_the_first_gives_up_another_makes_the_answer() {
        let rounds = Rounds::default();
        let never = rounds.join(std::future::pending::<Result<u32, Infallible>>());
        let other = rounds.join(async { Ok::<_, Infallible>(7) });
        tokio::pin!(other);
        tokio::select! {
            biased;
            _ = never => panic!("never"),
            _ = &mut other => panic!("the first is at it"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(other.await, Ok(7));
    }
}
