//! Reading bodies within a bound.

use std::pin::pin;

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than allowed.
    #[error("the body is larger than the {max_bytes} bytes that are allowed here")]
    TooLarge {
        /// The bound.
        max_bytes: usize,
    },
    /// The peer went away or sent something malformed.
    #[error("the body could not be read to its end")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads `body` to its end, at most `max_bytes`. A body that declares more is
/// refused before a byte of it is read.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_limited<B>(body: B, max_bytes: usize) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Data: Buf,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(BodyError::TooLarge { max_bytes });
    }
    #[expect(clippy::disallowed_methods, reason = "Limited bounds it")]
    let collected = Limited::new(body, max_bytes).collect();
    match collected.await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge { max_bytes }),
        Err(error) => Err(BodyError::Broken(error)),
    }
}

/// How much of a request's body is read off beyond what is allowed, so that its sender
/// hears the refusal. Clients write a body to its end before they read: closed earlier,
/// the connection is reset under them, and HashiCorp's Go client, for one, tells of a
/// broken pipe where it should tell of a limit. Four MiB is more than any honest mistake.
const REFUSED_BYTES_MAX: usize = 4 << 20;

/// Reads the body of a request to its end, at most `max_bytes`, as [`read_limited`]
/// does; when it is larger, what follows is read off within a bound.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_or_refuse<B>(body: B, max_bytes: usize) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Data: Buf,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let read = read_limited(body.as_mut(), max_bytes).await;
    if matches!(read, Err(BodyError::TooLarge { .. })) {
        let mut off = 0;
        while let Some(Ok(frame)) = body.frame().await {
            off += frame.data_ref().map_or(0, Buf::remaining);
            if off > REFUSED_BYTES_MAX {
                break;
            }
        }
    }
    read
}

/// Reads at most the first `max_bytes` of `body` and leaves the rest.
///
/// # Errors
/// [`BodyError::Broken`] when the body ends badly before that.
pub async fn read_start<B>(mut body: B, max_bytes: usize) -> Result<Bytes, BodyError>
where
    B: Body + Unpin,
    B::Data: Buf,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut start = Vec::new();
    while start.len() < max_bytes {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|error| BodyError::Broken(error.into()))?;
        if let Ok(mut data) = frame.into_data() {
            let take = data.remaining().min(max_bytes - start.len());
            start.extend_from_slice(&data.copy_to_bytes(take));
        }
    }
    Ok(start.into())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn pieces(count: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(
            (0..count).map(|_| Ok(Frame::data(Bytes::from_static(b"0123456789")))),
        ))
    }

    #[tokio::test]
    async fn a_body_of_just_the_limit_is_read_and_one_more_byte_is_refused() {
        let read = read_limited(pieces(2), 20).await.unwrap();
        assert_eq!(read.len(), 20);
        assert!(matches!(
            read_limited(pieces(2), 19).await,
            Err(BodyError::TooLarge { max_bytes: 19 })
        ));
        assert!(matches!(
            read_limited(Full::new(Bytes::from_static(b"abc")), 2).await,
            Err(BodyError::TooLarge { max_bytes: 2 })
        ));
    }

    #[tokio::test]
    async fn a_refused_body_is_read_off_but_not_an_endless_one() {
        let refused = read_or_refuse(pieces(9), 20).await;
        assert!(matches!(
            refused,
            Err(BodyError::TooLarge { max_bytes: 20 })
        ));
        let left = std::cell::Cell::new(9);
        let counted = StreamBody::new(stream::iter(0..9).map(|_| {
            left.set(left.get() - 1);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")))
        }));
        assert!(read_or_refuse(counted, 20).await.is_err());
        assert_eq!(left.get(), 0, "the sender is not reset");
        let endless = StreamBody::new(stream::repeat_with(|| {
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 64 * 1024])))
        }));
        assert!(read_or_refuse(endless, 20).await.is_err());
    }

    #[tokio::test]
    async fn the_start_of_an_endless_body_is_enough() {
        let endless = StreamBody::new(stream::repeat_with(|| {
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"0123456789")))
        }));
        assert_eq!(
            &read_start(endless, 15).await.unwrap()[..],
            b"012345678901234"
        );
    }
}
