//! The names of a request: `X-Request-Id` for people, `traceparent` and
//! `tracestate` for tracers (W3C Trace Context, level 1).

use atoll_runtime::Random;

use crate::h1::field::Known;
use crate::h1::request::RequestHead;

/// Longest request id that is believed of a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The identity of one request.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    request_id: [u8; REQUEST_ID_BYTES_MAX],
    request_id_len: u8,
    /// Lower-case hexadecimal.
    pub(crate) trace_id: [u8; 32],
    /// Of the gateway's own span, which the upstream sees as its parent.
    pub(crate) span_id: [u8; 16],
    /// Of the client's span, when it sent a valid one.
    pub(crate) parent_id: Option<[u8; 16]>,
    /// Trace flags, hexadecimal.
    pub(crate) flags: [u8; 2],
}

impl Identity {
    /// Continues what the client began, or begins.
    pub(crate) fn of(head: &RequestHead, random: &mut Random) -> Self {
        let mut parents = head.values(Known::TraceParent);
        let parent = match (parents.next(), parents.next()) {
            (Some(one), None) => parse_parent(one),
            // W3C Trace Context §3.2: more than one is as none.
            _ => None,
        };
        let mut identity = Self {
            request_id: [0; REQUEST_ID_BYTES_MAX],
            request_id_len: 0,
            trace_id: [b'0'; 32],
            span_id: hex(random.bits().max(1)),
            parent_id: None,
            flags: *b"01",
        };
        match parent {
            Some((trace_id, parent_id, flags)) => {
                identity.trace_id = trace_id;
                identity.parent_id = Some(parent_id);
                identity.flags = flags;
            }
            None => {
                identity.trace_id[..16].copy_from_slice(&hex(random.bits()));
                identity.trace_id[16..].copy_from_slice(&hex(random.bits().max(1)));
            }
        }
        let given = head.values(Known::RequestId).next();
        // A request id that is made up is the trace id: one word to search for.
        let chosen = match given {
            Some(given) if is_sane(given) => given,
            _ => &identity.trace_id[..],
        };
        identity.request_id[..chosen.len()].copy_from_slice(chosen);
        identity.request_id_len = chosen.len() as u8;
        identity
    }

    pub(crate) fn request_id(&self) -> &str {
        let bytes = &self.request_id[..usize::from(self.request_id_len)];
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The value of `traceparent` for the upstream.
    pub(crate) fn write_parent(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"00-");
        out.extend_from_slice(&self.trace_id);
        out.push(b'-');
        out.extend_from_slice(&self.span_id);
        out.push(b'-');
        out.extend_from_slice(&self.flags);
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn hex(bits: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(bits >> (60 - place * 4)) as usize & 15])
}

/// Trace id, parent id and flags of `00-…-…-01`; later versions may be longer.
fn parse_parent(value: &[u8]) -> Option<([u8; 32], [u8; 16], [u8; 2])> {
    let lower_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let version = value.get(..2)?;
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let length = value.len() == 55 || (version != b"00" && value.len() > 55 && value[55] == b'-');
    if !dashes || !length || !lower_hex(version) || version == b"ff" {
        return None;
    }
    let trace_id: [u8; 32] = value[3..35].try_into().ok()?;
    let parent_id: [u8; 16] = value[36..52].try_into().ok()?;
    let flags: [u8; 2] = value[53..55].try_into().ok()?;
    let fine = lower_hex(&trace_id)
        && lower_hex(&parent_id)
        && lower_hex(&flags)
        && trace_id != [b'0'; 32]
        && parent_id != [b'0'; 16];
    fine.then_some((trace_id, parent_id, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_parent_is_read() {
        let (trace_id, parent_id, flags) = parse_parent(PARENT).unwrap();
        assert_eq!(&trace_id, b"0af7651916cd43dd8448eb211c80319c");
        assert_eq!(&parent_id, b"b7ad6b7169203331");
        assert_eq!(&flags, b"01");
        let later = [b"01".as_slice(), &PARENT[2..], b"-more"].concat();
        assert!(parse_parent(&later).is_some());
    }

    #[test]
    fn an_invalid_parent_is_as_none() {
        let text = std::str::from_utf8(PARENT).unwrap();
        for bad in [
            "",
            "00",
            &text.to_uppercase(),
            &text.replace("00-", "ff-"),
            &text.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &text.replace("b7ad6b7169203331", &"0".repeat(16)),
            &text.replace("b7ad", "b7ag"),
            &text.replace('-', "_"),
            &format!("{text}-more"),
            &text[..54],
        ] {
            assert_eq!(parse_parent(bad.as_bytes()), None, "{bad}");
        }
    }
}
