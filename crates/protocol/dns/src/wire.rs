//! Messages: what may be asked, and how an answer is written within its limit
//! (RFC 1035 §4, RFC 6891 for EDNS, RFC 3597 §4 for what may be compressed).

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, PushError, TreeCompressor};
use domain::base::name::ToName;
use domain::base::opt::Opt;
use domain::base::record::ComposeRecord;
use domain::base::wire::Composer;
use domain::base::{Header, Message, MessageBuilder, Question, Record as Written, Serial, Ttl};
use domain::rdata::{A, Aaaa, Cname, Ns, Ptr, Soa, Srv, Txt};

use crate::name::DnsName;

/// What a datagram may have when the client says nothing (RFC 1035 §2.3.4).
const PLAIN_UDP_BYTES: usize = 512;
/// The longest datagram that we send or take, whatever the client offers: beyond it
/// answers are for TCP. Larger ones would mostly serve those who forge senders.
pub(crate) const UDP_BYTES_MAX: usize = 4096;
/// What the length before a message on TCP can say (RFC 1035 §4.2.2).
pub(crate) const TCP_BYTES_MAX: usize = 65_535;
/// Records that are taken over from a recursor's answer.
const FOLLOWED_RECORDS_MAX: usize = 64;
/// An OPT record without options (RFC 6891 §6.1.2).
const OPT_BYTES: usize = 11;
/// A message's header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    header: Header,
    question: Option<Question<DnsName>>,
    edns: Option<Edns>,
}

/// What the client's OPT record says (RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug)]
struct Edns {
    payload_bytes: u16,
    dnssec_ok: bool,
}

/// Why there is nothing to look up.
#[derive(Debug)]
pub(crate) enum Unanswerable {
    /// Not a question: an answer to it could begin a loop.
    Silent,
    /// The answer is an error.
    Error(Box<Query>, OptRcode),
}

/// A record of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: DnsName,
    pub(crate) ttl_s: u32,
    pub(crate) data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(DnsName),
    Ptr(DnsName),
    Ns(DnsName),
    Srv {
        weight: u16,
        port: u16,
        target: DnsName,
    },
    Soa {
        primary: DnsName,
        contact: DnsName,
        serial: u32,
    },
    /// At most 255 bytes count.
    Txt(String),
}

/// What is answered, before it is known how much fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: Rcode,
    /// Whether it is ours to say (RFC 1035 §4.1.1, AA).
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    /// Each with the number of the answer that it belongs to, in their order; it goes
    /// when that does.
    pub(crate) additional: Vec<(usize, Record)>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            rcode: Rcode::NOERROR,
            authoritative: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }
}

impl Query {
    /// Reads a packet.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Unanswerable> {
        let message = Message::from_slice(packet).map_err(|_| Unanswerable::Silent)?;
        let header = message.header();
        if header.qr() {
            return Err(Unanswerable::Silent);
        }
        let mut query = Self {
            header,
            question: None,
            edns: None,
        };
        let refuse = |query: &Self, code| Err(Unanswerable::Error(Box::new(query.clone()), code));
        if header.opcode() != Opcode::QUERY {
            return refuse(&query, OptRcode::NOTIMP);
        }
        let Ok(question) = message.sole_question() else {
            return refuse(&query, OptRcode::FORMERR);
        };
        let (qtype, qclass) = (question.qtype(), question.qclass());
        query.question = Some(Question::new(question.qname().to_vec(), qtype, qclass));
        match edns(message) {
            Err(()) => return refuse(&query, OptRcode::FORMERR),
            Ok(None) => {}
            Ok(Some((edns, version))) => {
                query.edns = Some(edns);
                if version != 0 {
                    return refuse(&query, OptRcode::BADVERS);
                }
            }
        }
        if !matches!(qclass, Class::IN | Class::ANY) || is_transfer(qtype) {
            return refuse(&query, OptRcode::REFUSED);
        }
        Ok(query)
    }

    /// The name that is asked for, in the case that it was asked in.
    pub(crate) fn question(&self) -> Option<(&DnsName, Rtype)> {
        let question = self.question.as_ref()?;
        Some((question.qname(), question.qtype()))
    }

    /// Whether the client wants others asked (RFC 1035 §4.1.1, RD).
    pub(crate) fn recursion_desired(&self) -> bool {
        self.header.rd()
    }

    /// Bytes that the answer may have.
    pub(crate) fn answer_bytes_max(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => TCP_BYTES_MAX,
            (Transport::Udp, None) => PLAIN_UDP_BYTES,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.payload_bytes).clamp(PLAIN_UDP_BYTES, UDP_BYTES_MAX)
            }
        }
    }

    /// The answer as bytes: as many records as fit, whole. On UDP the rest is told by
    /// TC (RFC 2181 §9: not for what is only additional); on TCP nothing more helps.
    pub(crate) fn answer(&self, reply: &Reply, transport: Transport, recursion: bool) -> Vec<u8> {
        let rcode = OptRcode::from(reply.rcode);
        self.write(reply, rcode, transport, recursion)
    }

    /// An answer that is only an error.
    pub(crate) fn error(&self, rcode: OptRcode, transport: Transport, recursion: bool) -> Vec<u8> {
        self.write(&Reply::default(), rcode, transport, recursion)
    }

    fn write(
        &self,
        reply: &Reply,
        rcode: OptRcode,
        transport: Transport,
        recursion: bool,
    ) -> Vec<u8> {
        let most = self.answer_bytes_max(transport);
        let written = self.sections(reply, rcode, transport, recursion, most);
        // Room for a header, a question and an OPT record is always there.
        debug_assert!(written.is_ok(), "{written:?}");
        let written = written.unwrap_or_default();
        debug_assert!(written.len() <= most);
        written
    }

    fn sections(
        &self,
        reply: &Reply,
        rcode: OptRcode,
        transport: Transport,
        recursion: bool,
        bytes_max: usize,
    ) -> Result<Vec<u8>, PushError> {
        let start = Vec::with_capacity(PLAIN_UDP_BYTES);
        let Ok(mut builder) = MessageBuilder::from_target(TreeCompressor::new(start));
        let header = builder.header_mut();
        header.set_id(self.header.id());
        header.set_qr(true);
        header.set_opcode(self.header.opcode());
        header.set_aa(reply.authoritative);
        header.set_rd(self.header.rd());
        header.set_ra(recursion);
        header.set_cd(self.header.cd());
        header.set_rcode(rcode.rcode());
        let edns_bytes = if self.edns.is_some() { OPT_BYTES } else { 0 };
        // The builder wants the first length that is too long.
        builder.set_push_limit(bytes_max - edns_bytes + 1);
        let mut section = builder.question();
        if let Some(question) = &self.question {
            section.push(question)?;
        }
        let mut section = section.answer();
        let mut answers = 0;
        for record in &reply.answers {
            if section.push(record).is_err() {
                break;
            }
            answers += 1;
        }
        let cut = answers < reply.answers.len();
        let mut section = section.authority();
        if !cut {
            for record in &reply.authority {
                section.push(record)?;
            }
        }
        let mut section = section.additional();
        let fitting = reply
            .additional
            .iter()
            .filter(|(of, _)| *of < answers.max(1));
        for (_, record) in fitting {
            if section.push(record).is_err() {
                break;
            }
        }
        section
            .header_mut()
            .set_tc(cut && transport == Transport::Udp);
        section.set_push_limit(bytes_max + 1);
        if let Some(edns) = self.edns {
            push_opt(&mut section, edns, rcode)?;
        }
        Ok(section.finish().into_target())
    }
}

fn push_opt<Target: Composer>(
    section: &mut AdditionalBuilder<Target>,
    edns: Edns,
    rcode: OptRcode,
) -> Result<(), PushError> {
    section.opt(|opt| {
        let ours = u16::try_from(UDP_BYTES_MAX).unwrap_or(u16::MAX);
        opt.set_udp_payload_size(ours);
        opt.set_version(0);
        opt.set_rcode(rcode);
        // RFC 3225 §3: copied, though nothing is signed here.
        opt.set_dnssec_ok(edns.dnssec_ok);
        Ok(())
    })
}

/// The OPT record and its version; an error when there are two (RFC 6891 §6.1.1), or
/// when the packet does not hold what its header says.
fn edns(message: &Message<[u8]>) -> Result<Option<(Edns, u8)>, ()> {
    let (_, answer, authority, additional) = message.sections().map_err(|_| ())?;
    for section in [answer, authority] {
        for record in section {
            record.map_err(|_| ())?;
        }
    }
    let mut found = None;
    for record in additional {
        let record = record.map_err(|_| ())?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<_>>().map_err(|_| ())?.ok_or(())?;
        let opt = domain::base::opt::OptRecord::from(record);
        let edns = Edns {
            payload_bytes: opt.udp_payload_size(),
            dnssec_ok: opt.dnssec_ok(),
        };
        if found.replace((edns, opt.version())).is_some() {
            return Err(());
        }
    }
    Ok(found)
}

fn is_transfer(qtype: Rtype) -> bool {
    matches!(
        qtype,
        Rtype::AXFR | Rtype::IXFR | Rtype::MAILA | Rtype::MAILB
    )
}

/// A question of our own to a recursor.
pub(crate) fn ask(id: u16, name: &DnsName, qtype: Rtype) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut section = builder.question();
    section.push((name, qtype, Class::IN)).ok()?;
    let mut section = section.additional();
    let edns = Edns {
        payload_bytes: 0,
        dnssec_ok: false,
    };
    push_opt(&mut section, edns, OptRcode::NOERROR).ok()?;
    Some(section.finish())
}

/// Whether a message says that it was cut.
pub(crate) fn is_cut(message: &[u8]) -> bool {
    Message::from_slice(message).is_ok_and(|message| message.header().tc())
}

/// Addresses, and the names that lead to them, in a recursor's answer; only what stands
/// behind `name`.
pub(crate) fn addresses_behind(answer: &[u8], name: &DnsName) -> Vec<Record> {
    let section = Message::from_slice(answer).map(Message::answer);
    let Ok(Ok(section)) = section else {
        return Vec::new();
    };
    let mut owner = name.clone();
    let mut found = Vec::new();
    for record in section.flatten().take(FOLLOWED_RECORDS_MAX) {
        if record.owner() != owner {
            continue;
        }
        let ttl_s = record.ttl().as_secs();
        let data = if let Ok(Some(a)) = record.to_record::<A>() {
            Data::A(a.data().addr())
        } else if let Ok(Some(aaaa)) = record.to_record::<Aaaa>() {
            Data::Aaaa(aaaa.data().addr())
        } else if let Ok(Some(alias)) = record.to_record::<Cname<_>>() {
            Data::Cname(alias.data().cname().to_vec())
        } else {
            continue;
        };
        let of = owner.clone();
        if let Data::Cname(next) = &data {
            owner = next.clone();
        }
        found.push(Record {
            owner: of,
            ttl_s,
            data,
        });
    }
    found
}

/// A message that takes over a header and a question, and says only that it was cut:
/// the client asks again by TCP.
pub(crate) fn only_truncated(packet: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_slice(packet).ok()?;
    let question = message.sole_question().ok()?;
    let mut builder = MessageBuilder::new_vec();
    *builder.header_mut() = message.header();
    builder.header_mut().set_tc(true);
    let mut section = builder.question();
    section.push(question).ok()?;
    debug_assert!(section.as_slice().len() > HEADER_BYTES);
    Some(section.finish())
}

impl ComposeRecord for Record {
    fn compose_record<Target: Composer + ?Sized>(
        &self,
        target: &mut Target,
    ) -> Result<(), Target::AppendError> {
        let (owner, class, ttl) = (&self.owner, Class::IN, Ttl::from_secs(self.ttl_s));
        match &self.data {
            Data::A(ip) => Written::new(owner, class, ttl, A::new(*ip)).compose(target),
            Data::Aaaa(ip) => Written::new(owner, class, ttl, Aaaa::new(*ip)).compose(target),
            Data::Cname(name) => Written::new(owner, class, ttl, Cname::new(name)).compose(target),
            Data::Ptr(name) => Written::new(owner, class, ttl, Ptr::new(name)).compose(target),
            Data::Ns(name) => Written::new(owner, class, ttl, Ns::new(name)).compose(target),
            Data::Srv {
                weight,
                port,
                target: host,
            } => {
                let data = Srv::new(SRV_PRIORITY, *weight, *port, host);
                Written::new(owner, class, ttl, data).compose(target)
            }
            Data::Soa {
                primary,
                contact,
                serial,
            } => {
                let serial = Serial(*serial);
                let [refresh, retry, expire, minimum] = SOA_TIMES_S.map(Ttl::from_secs);
                let data = Soa::new(primary, contact, serial, refresh, retry, expire, minimum);
                Written::new(owner, class, ttl, data).compose(target)
            }
            Data::Txt(text) => {
                let text = text.as_bytes();
                let text = &text[..text.len().min(255)];
                let mut octets = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
                octets.extend_from_slice(text);
                match Txt::from_octets(octets) {
                    Ok(data) => Written::new(owner, class, ttl, data).compose(target),
                    // One character string with its own length is always right.
                    Err(_) => Ok(()),
                }
            }
        }
    }
}

/// Consul's, for all.
const SRV_PRIORITY: u16 = 1;
/// Refresh, retry, expire and minimum, as Consul's: a name that is not there now may be
/// in a moment.
const SOA_TIMES_S: [u32; 4] = [3600, 600, 86_400, 0];
