//! The counter page of a worker: an array of `u64`, written by that worker alone.
//!
//! The worker counts in private memory and publishes the whole page now and then (`turnpike-shm`
//! guards it with a sequence number), so a reader always sees the counters of one moment, in which
//!
//! ```text
//! received + injected + crossed_in + generated == sent + punted + crossed_out + sum(drops) + held
//! ```

/// Declares an enum of dense indices with the names that metrics and the CLI show.
macro_rules! indices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every variant, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics, JSON and tables.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Position in [`Self::ALL`].
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The variant at `index`, for a number that came from the peer.
            #[must_use]
            pub fn at(index: usize) -> Option<Self> {
                Self::ALL.get(index).copied()
            }
        }
    };
}

indices! {
    /// Scalars of a worker. Counters but for the last group, which are gauges.
    Counter {
        /// Packets taken from the RX queues.
        Received = "received",
        /// Bytes of those, Ethernet header included, FCS not.
        ReceivedBytes = "received_bytes",
        /// Received packets that needed nothing but their flow's record.
        FastPath = "fast_path",
        /// First packets that opened their flow without more than plain ones need.
        PlainOpenings = "plain_openings",
        /// Packets handed to a TX queue and taken by it.
        Sent = "sent",
        /// Bytes of those.
        SentBytes = "sent_bytes",
        /// Packets for the box itself, handed to the interface's TAP twin.
        Punted = "punted",
        /// Packets from the TAP twins, to be sent as they are.
        Injected = "injected",
        /// Packets the worker made itself: ICMP errors, fragments, proxy ARP replies.
        Generated = "generated",
        /// Packets that came from another worker.
        CrossedIn = "crossed_in",
        /// Packets handed to the worker that owns them.
        CrossedOut = "crossed_out",
        /// Non-empty bursts.
        Bursts = "bursts",
        /// TSC cycles in bursts that had packets.
        CyclesBusy = "cycles_busy",
        /// TSC cycles in polls that had none, sleep included.
        CyclesIdle = "cycles_idle",
        /// TSC cycles in timers, commands and publishing.
        CyclesHousekeeping = "cycles_housekeeping",
        /// Commands of the control plane carried out.
        Commands = "commands",
        /// Commands answered with an error.
        CommandsRefused = "commands_refused",
        /// Events written to the ring.
        Events = "events",
        /// Events lost because the ring was full or nobody was attached.
        EventsDropped = "events_dropped",
        /// Port blocks and flows logged over the event ring.
        LogRecords = "log_records",
        /// Those that were lost because too many waited for room in it.
        LogRecordsLost = "log_records_lost",
        /// Times this worker found the peer's ring broken or a command malformed.
        PeerViolations = "peer_violations",
        /// Packets that used an existing endpoint-independent mapping for a new flow.
        EimHits = "eim_hits",
        /// New flows from outside accepted by endpoint-independent filtering.
        EifHits = "eif_hits",
        /// New flows from outside refused by a pinhole's remote filter.
        EifFiltered = "eif_filtered",
        /// Packets that waited for a neighbour and then left.
        NeighbourReleased = "neighbour_released",
        /// ICMP errors from outside rewritten for an inside host.
        IcmpTranslatedOut2In = "icmp_translated_out2in",
        /// ICMP errors from inside rewritten for an outside host.
        IcmpTranslatedIn2Out = "icmp_translated_in2out",
        /// TCP SYN segments whose MSS option was lowered.
        MssClampedIn2Out = "mss_clamped_in2out",
        /// The same from outside.
        MssClampedOut2In = "mss_clamped_out2in",
        /// Port blocks given to subscribers, their first ones.
        BlocksPrimary = "blocks_primary",
        /// Port blocks given to subscribers that had one.
        BlocksOverflow = "blocks_overflow",
        /// Port blocks that came back.
        BlocksReleased = "blocks_released",
        /// Freed ports that were free at once because as many were held back as may be.
        QuarantineSkipped = "quarantine_skipped",
        /// Pinholes that closed by themselves.
        PinholesClosed = "pinholes_closed",
        /// Pinholes that a remote end locked.
        PinholesLocked = "pinholes_locked",
        /// Fragments sent on, each on its own.
        FragmentsForwarded = "fragments_forwarded",
        /// Fragments that had to wait for the first of their datagram.
        FragmentsHeld = "fragments_held",
        /// Gauge: packets waiting for a neighbour or for the first fragment of their datagram.
        Held = "held",
        /// Gauge: IPv4 fragments among them.
        FragmentsWaitingV4 = "fragments_waiting_v4",
        /// Gauge: IPv6 fragments among them.
        FragmentsWaitingV6 = "fragments_waiting_v6",
        /// Gauge: fragments that may wait.
        FragmentsLimit = "fragments_limit",
        /// Gauge: inside addresses with at least one binding.
        Subscribers = "subscribers",
        /// Gauge: neighbours known.
        Neighbours = "neighbours",
        /// Gauge: port blocks that subscribers have.
        Blocks = "blocks",
        /// Gauge: freed ports that are held back.
        Quarantined = "quarantined",
        /// Gauge: ports reserved, and those leased to other workers.
        PortsReserved = "ports_reserved",
        /// Gauge: pinholes installed.
        Pinholes = "pinholes",
        /// Gauge: generation of the policy table in use, 0 before the first.
        PolicyGeneration = "policy_generation",
        /// Gauge: generation of the forwarding table in use, 0 before the first.
        ForwardingGeneration = "forwarding_generation",
        /// Gauge: flows the table can hold.
        FlowsLimit = "flows_limit",
        /// Gauge: bindings the table can hold.
        BindingsLimit = "bindings_limit",
        /// Gauge: milliseconds the timer wheel is behind.
        TimerLagMs = "timer_lag_ms",
        /// Gauge: wall clock of the last publication, milliseconds since the epoch.
        HeartbeatMs = "heartbeat_ms",
    }
}

indices! {
    /// Why a packet was dropped. A closed list: every drop has exactly one reason, no reason means two things.
    DropReason {
        /// Frame shorter than its Ethernet header.
        EthTruncated = "eth_truncated",
        /// Frame for another station.
        MacNotOurs = "mac_not_ours",
        /// VLAN tag cut short.
        VlanTruncated = "vlan_truncated",
        /// Tag that no interface of the port carries, or no tag where none is expected.
        VlanUnknown = "vlan_unknown",
        /// Neither ARP, IPv4 nor IPv6.
        EthertypeUnknown = "ethertype_unknown",
        /// ARP cut short or not for Ethernet and IPv4 (RFC 826).
        ArpMalformed = "arp_malformed",
        /// IPv4 header cut short.
        Ip4Truncated = "ip4_truncated",
        /// Version is not 4.
        Ip4BadVersion = "ip4_bad_version",
        /// Header length under 20 bytes or past the packet.
        Ip4BadIhl = "ip4_bad_ihl",
        /// Total length under the header's or past the frame.
        Ip4BadTotalLength = "ip4_bad_total_length",
        /// Header checksum wrong.
        Ip4BadChecksum = "ip4_bad_checksum",
        /// Options run past the header or have a length under 2.
        Ip4BadOptions = "ip4_bad_options",
        /// Loose or strict source route (RFC 5508 7.3, RFC 7126 4.3).
        IpOptionsSourceRoute = "ip_options_src_route",
        /// IPv6 header cut short.
        Ip6Truncated = "ip6_truncated",
        /// Version is not 6.
        Ip6BadVersion = "ip6_bad_version",
        /// Payload length past the frame.
        Ip6BadPayloadLength = "ip6_bad_payload_length",
        /// Extension header cut short.
        Ip6ExtTruncated = "ip6_ext_truncated",
        /// Hop-by-Hop not first, or a header that may stand once stands again (RFC 8200 4.1).
        Ip6ExtOrder = "ip6_ext_order",
        /// More extension headers than the box walks.
        Ip6ExtLimit = "ip6_ext_limit",
        /// Type 0 routing header (RFC 5095, RFC 6092 REC-4).
        Ip6RoutingHeader0 = "ip6_routing_header0",
        /// Source that no host may use: multicast, loopback, unspecified, mapped, documentation (RFC 6092 REC-1..3).
        MartianSource = "martian_source",
        /// Destination that must not be forwarded: loopback, link-local, mapped, reserved.
        MartianDestination = "martian_destination",
        /// Source does not route back to the interface (BCP 84).
        SpoofedSource = "spoofed_source",
        /// Multicast or broadcast not for the box itself.
        MulticastUnsupported = "multicast_unsupported",
        /// Fragment with offset 0 that cuts the transport header (RFC 1858).
        FragTiny = "frag_tiny",
        /// Fragment with offset 1 (RFC 3128).
        FragOffsetOne = "frag_offset_one",
        /// Fragment that would end past 65535 bytes.
        FragOverrun = "frag_overrun",
        /// Non-last fragment whose length is not a multiple of 8, or empty.
        FragBadLength = "frag_bad_length",
        /// Of a datagram with fragments that overlap or contradict each other about its end (RFC 5722).
        FragOverlap = "frag_overlap",
        /// Came before, exactly like this.
        FragDuplicate = "frag_dup",
        /// Too many fragments wait or datagrams are under way, in all or of this source; or too many of one datagram.
        FragLimit = "frag_limit",
        /// The first fragment of its datagram did not come in time.
        FragTimeout = "frag_timeout",
        /// Of an ICMP error, whose checksum only the whole would show (RFC 5508 REQ-3).
        FragIcmpError = "frag_icmp_error",
        /// TCP header cut short.
        TcpTruncated = "tcp_truncated",
        /// TCP data offset under 20 bytes or past the segment.
        TcpBadOffset = "tcp_bad_offset",
        /// Flag combination no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK.
        TcpBadFlags = "tcp_bad_flags",
        /// UDP header cut short.
        UdpTruncated = "udp_truncated",
        /// UDP length under 8 or past the packet.
        UdpBadLength = "udp_bad_length",
        /// ICMP message cut short.
        IcmpTruncated = "icmp_truncated",
        /// ICMP checksum wrong (RFC 5508 REQ-3).
        IcmpBadChecksum = "icmp_bad_csum",
        /// Embedded packet too short to find its ports.
        IcmpInnerTruncated = "icmp_inner_truncated",
        /// Embedded IPv4 header checksum wrong (RFC 5508 REQ-3a).
        IcmpInnerBadChecksum = "icmp_inner_bad_csum",
        /// Error about an ICMP error.
        IcmpDoubleError = "icmp_double_error",
        /// Type that is neither query nor error the box forwards (RFC 5508 REQ-11).
        IcmpUnknownType = "icmp_unknown_type",
        /// Error whose embedded packet belongs to no flow.
        IcmpNoSession = "icmp_no_session",
        /// Protocol the translator does not handle.
        ProtoUnsupported = "proto_unsupported",
        /// TTL or hop limit used up.
        TtlExpired = "ttl_expired",
        /// Larger than the next link and not to be fragmented.
        MtuExceeded = "mtu_exceeded_df",
        /// No route to the destination.
        NoRoute = "no_route",
        /// The route says unreachable, prohibit or blackhole.
        RouteUnreachable = "route_unreachable",
        /// The next hop did not answer in time.
        NeighbourUnresolved = "neighbour_unresolved",
        /// Too many packets wait for this next hop, or for all.
        NeighbourQueueFull = "neighbour_queue_full",
        /// For a pool address, and no binding has that port.
        NoMapping = "no_mapping",
        /// Binding exists, but its pinhole does not admit this remote end.
        FilteredRemote = "filtered_remote",
        /// Mapping exists, but its inside end has no flow with this remote end, which the pool's filtering asks for.
        FilteredUnasked = "filtered_adf",
        /// Against the direction of a one-way pinhole (RFC 5189 2.3.5).
        PinholeOneWay = "pinhole_one_way",
        /// The pinhole is another remote end's, or as many try for it as may.
        PinholeLocked = "pinhole_locked",
        /// The pinhole has as many flows as it may.
        PinholeFlows = "pinhole_sessions",
        /// A firewall rule says drop or reject.
        FirewallRuleDeny = "fw_rule_deny",
        /// No rule matched and the zone pair's default is drop or reject.
        FirewallDefaultDeny = "fw_default_deny",
        /// First segment of a flow is not a SYN.
        SynRequired = "syn_required",
        /// ICMP query reply without request.
        IcmpReplyUnasked = "icmp_reply_unasked",
        /// Private source would leave an outside zone untranslated (BCP 38).
        PrivateSource = "private_source",
        /// No free port on the subscriber's pool address.
        PortExhausted = "port_exhausted",
        /// The subscriber has as many ports or blocks as its pool allows (RFC 6888 REQ-4).
        SubscriberPorts = "subscriber_ports",
        /// The subscriber has as many flows as its pool allows (RFC 6888 REQ-5).
        SubscriberFlows = "subscriber_sessions",
        /// The subscriber opens flows faster than its pool allows (RFC 6888 REQ-4c).
        SubscriberRate = "subscriber_rate",
        /// Flow table full.
        FlowLimit = "session_limit",
        /// Binding table full.
        BindingLimit = "mapping_limit",
        /// Packet would be translated a third time.
        HairpinLoop = "hairpin_loop",
        /// The owner's crossing ring is full.
        CrossingRingFull = "handoff_ring_full",
        /// The ring to the TAP twin is full.
        PuntRingFull = "punt_ring_full",
        /// The NIC's TX queue did not take it.
        TxQueueFull = "tx_ring_full",
        /// No buffer for a packet the box had to make or copy.
        BufferExhausted = "mbuf_exhausted",
        /// No policy yet, or an interface without a zone.
        NotConfigured = "admin_down",
        /// A defect of the box. Please report it.
        InternalError = "internal_error",
    }
}

indices! {
    /// Transport protocols as metrics label them.
    ProtocolClass {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// ICMP and ICMPv6.
        Icmp = "icmp",
        /// Anything else.
        Other = "other",
    }
}

impl ProtocolClass {
    /// The class of an IP protocol number.
    #[must_use]
    pub const fn of(protocol: u8) -> Self {
        match protocol {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 | 58 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

indices! {
    /// How a forwarded packet went.
    Direction {
        /// Translated or tracked, from the side that opened the flow, source rewritten.
        In2Out = "in2out",
        /// Translated, from outside to an inside host.
        Out2In = "out2in",
        /// From inside to inside through an external address.
        Hairpin = "hairpin",
        /// Forwarded without translation.
        Routed = "routed",
    }
}

indices! {
    /// Why a flow ended. No quota is among the reasons: limits refuse new flows and end none (RFC 6888 REQ-11d).
    FlowEnd {
        /// Idle past its timeout.
        Timeout = "timeout",
        /// TCP closed by FIN from both sides and the wait after it.
        Fin = "fin",
        /// TCP reset and the wait after it.
        Rst = "rst",
        /// Its pinhole was closed: by an operator, an agent or a host, or at the end of its lifetime.
        Admin = "admin",
        /// A new policy has no place for it: its address left the pool.
        Policy = "policy",
        /// Its binding or its pinhole went to somebody else.
        Binding = "binding",
    }
}

indices! {
    /// ICMP errors the box makes itself.
    IcmpKind {
        /// 3/0, ICMPv6 1/0.
        UnreachableNet = "unreach_net",
        /// 3/1, ICMPv6 1/3.
        UnreachableHost = "unreach_host",
        /// 3/13, ICMPv6 1/1.
        UnreachableAdmin = "unreach_admin",
        /// 3/4 (RFC 1191).
        FragNeeded = "frag_needed",
        /// 11/0, ICMPv6 3/0.
        TimeExceeded = "time_exceeded",
        /// ICMPv6 2 (RFC 4443 3.2).
        PacketTooBig = "ptb6",
    }
}

indices! {
    /// What the firewall said to the first packet of a flow.
    FirewallAction {
        /// Passed.
        Accept = "accept",
        /// Dropped without a word.
        Drop = "drop",
        /// Dropped with an ICMP error.
        Reject = "reject",
    }
}

indices! {
    /// States of a TCP flow (RFC 7857, section 2, figure 1).
    TcpState {
        /// Not TCP, or none.
        None = "none",
        /// SYN seen from the side that opened.
        Init = "init",
        /// SYN seen from both.
        Established = "established",
        /// FIN from the client.
        ClientFin = "c_fin",
        /// FIN from the server.
        ServerFin = "s_fin",
        /// FIN from both.
        BothFin = "both_fin",
        /// RST seen; a later packet returns to established.
        Transitory = "trans",
    }
}

/// Upper bounds (packets) of the burst-size histogram; a last bucket takes the rest.
pub const BURST_BUCKETS: [u16; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Upper bounds (bytes of the Ethernet frame) of the packet-size histogram; a last bucket takes the rest.
pub const SIZE_BUCKETS: [u16; 7] = [64, 128, 256, 512, 1024, 1518, 9018];

/// Where a region of a counter page begins, in words.
pub mod region {
    use super::{
        BURST_BUCKETS, Counter, Direction, DropReason, FirewallAction, FlowEnd, IcmpKind, ProtocolClass,
        SIZE_BUCKETS, TcpState,
    };
    use crate::{MAX_POOLS, MAX_ZONES};

    /// [`Counter`] scalars.
    pub const SCALARS: usize = 0;
    /// [`DropReason`].
    pub const DROPS: usize = SCALARS + Counter::COUNT;
    /// Packets by [`Direction`], then [`ProtocolClass`].
    pub const FORWARDED: usize = DROPS + DropReason::COUNT;
    /// Bytes, likewise.
    pub const FORWARDED_BYTES: usize = FORWARDED + Direction::COUNT * ProtocolClass::COUNT;
    /// Gauge: flows by [`ProtocolClass`].
    pub const FLOWS: usize = FORWARDED_BYTES + Direction::COUNT * ProtocolClass::COUNT;
    /// Flows created by [`ProtocolClass`].
    pub const FLOWS_CREATED: usize = FLOWS + ProtocolClass::COUNT;
    /// Flows ended by [`ProtocolClass`], then [`FlowEnd`].
    pub const FLOWS_ENDED: usize = FLOWS_CREATED + ProtocolClass::COUNT;
    /// Gauge: flows by [`TcpState`].
    pub const TCP_STATES: usize = FLOWS_ENDED + ProtocolClass::COUNT * FlowEnd::COUNT;
    /// Gauge: bindings by [`ProtocolClass`].
    pub const BINDINGS: usize = TCP_STATES + TcpState::COUNT;
    /// Bindings created by [`ProtocolClass`].
    pub const BINDINGS_CREATED: usize = BINDINGS + ProtocolClass::COUNT;
    /// ICMP errors made, by [`IcmpKind`].
    pub const ICMP_GENERATED: usize = BINDINGS_CREATED + ProtocolClass::COUNT;
    /// ICMP errors the rate limit held back, by [`IcmpKind`].
    pub const ICMP_SUPPRESSED: usize = ICMP_GENERATED + IcmpKind::COUNT;
    /// Burst sizes; [`BURST_BUCKETS`] and one more.
    pub const BURST_SIZES: usize = ICMP_SUPPRESSED + IcmpKind::COUNT;
    /// Frame sizes by [`Direction`]; [`SIZE_BUCKETS`] and one more.
    pub const FRAME_SIZES: usize = BURST_SIZES + BURST_BUCKETS.len() + 1;
    /// Firewall verdicts by zone from, zone to, [`FirewallAction`].
    pub const VERDICTS: usize = FRAME_SIZES + Direction::COUNT * (SIZE_BUCKETS.len() + 1);
    /// Gauge: ports in use by pool, then [`ProtocolClass`].
    pub const POOL_PORTS: usize = VERDICTS + MAX_ZONES * MAX_ZONES * FirewallAction::COUNT;
    /// Drops for want of a port, by pool.
    pub const POOL_EXHAUSTED: usize = POOL_PORTS + MAX_POOLS * ProtocolClass::COUNT;
    /// Words in a page.
    pub const WORDS: usize = POOL_EXHAUSTED + MAX_POOLS;

    const _: () = assert!(DropReason::COUNT <= 128, "the reason label is bounded");
}

/// A worker's counters in private memory, and a reader's copy of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    words: [u64; region::WORDS],
}

impl Default for Counters {
    fn default() -> Self {
        Self { words: [0; region::WORDS] }
    }
}

impl Counters {
    /// Every word, for publishing.
    #[must_use]
    pub const fn words(&self) -> &[u64; region::WORDS] {
        &self.words
    }

    /// Every word, for a reader's copy.
    pub const fn words_mut(&mut self) -> &mut [u64; region::WORDS] {
        &mut self.words
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    fn bump(&mut self, index: usize, by: u64) {
        if let Some(word) = self.words.get_mut(index) {
            *word = word.wrapping_add(by);
        }
    }

    fn lower(&mut self, index: usize) {
        if let Some(word) = self.words.get_mut(index) {
            *word = word.saturating_sub(1);
        }
    }

    /// Value of a scalar.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.word(region::SCALARS + counter.index())
    }

    /// Adds to a scalar.
    pub fn add(&mut self, counter: Counter, by: u64) {
        self.bump(region::SCALARS + counter.index(), by);
    }

    /// Sets a gauge.
    pub fn set(&mut self, counter: Counter, value: u64) {
        if let Some(word) = self.words.get_mut(region::SCALARS + counter.index()) {
            *word = value;
        }
    }

    /// Counts a drop.
    pub fn drop_packet(&mut self, reason: DropReason) {
        self.bump(region::DROPS + reason.index(), 1);
    }

    /// Drops for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.word(region::DROPS + reason.index())
    }

    /// Drops for all reasons.
    #[must_use]
    pub fn total_drops(&self) -> u64 {
        DropReason::ALL.iter().fold(0, |sum, &reason| sum.wrapping_add(self.drops(reason)))
    }

    /// Counts a forwarded packet of `bytes` (Ethernet frame).
    pub fn forwarded(&mut self, direction: Direction, class: ProtocolClass, bytes: usize) {
        let cell = direction.index() * ProtocolClass::COUNT + class.index();
        self.bump(region::FORWARDED + cell, 1);
        self.bump(region::FORWARDED_BYTES + cell, bytes as u64);
        let bucket = SIZE_BUCKETS.iter().position(|&le| bytes <= le as usize).unwrap_or(SIZE_BUCKETS.len());
        self.bump(region::FRAME_SIZES + direction.index() * (SIZE_BUCKETS.len() + 1) + bucket, 1);
    }

    /// Packets and bytes forwarded.
    #[must_use]
    pub fn forwarded_by(&self, direction: Direction, class: ProtocolClass) -> (u64, u64) {
        let cell = direction.index() * ProtocolClass::COUNT + class.index();
        (self.word(region::FORWARDED + cell), self.word(region::FORWARDED_BYTES + cell))
    }

    /// Frames forwarded in size bucket `bucket` (see [`SIZE_BUCKETS`]).
    #[must_use]
    pub fn frame_sizes(&self, direction: Direction, bucket: usize) -> u64 {
        self.word(region::FRAME_SIZES + direction.index() * (SIZE_BUCKETS.len() + 1) + bucket)
    }

    /// Counts a burst of `packets`, which is not 0.
    pub fn burst(&mut self, packets: usize) {
        self.add(Counter::Bursts, 1);
        let bucket =
            BURST_BUCKETS.iter().position(|&le| packets <= le as usize).unwrap_or(BURST_BUCKETS.len());
        self.bump(region::BURST_SIZES + bucket, 1);
    }

    /// Bursts in size bucket `bucket` (see [`BURST_BUCKETS`]).
    #[must_use]
    pub fn burst_sizes(&self, bucket: usize) -> u64 {
        self.word(region::BURST_SIZES + bucket)
    }

    /// Counts a flow that began in `state`.
    pub fn flow_created(&mut self, class: ProtocolClass, state: TcpState) {
        self.bump(region::FLOWS + class.index(), 1);
        self.bump(region::FLOWS_CREATED + class.index(), 1);
        self.bump(region::TCP_STATES + state.index(), 1);
    }

    /// Counts a flow that ended in `state`.
    pub fn flow_ended(&mut self, class: ProtocolClass, state: TcpState, why: FlowEnd) {
        self.lower(region::FLOWS + class.index());
        self.bump(region::FLOWS_ENDED + class.index() * FlowEnd::COUNT + why.index(), 1);
        self.lower(region::TCP_STATES + state.index());
    }

    /// Moves a flow between TCP states.
    pub fn tcp_state(&mut self, from: TcpState, to: TcpState) {
        self.lower(region::TCP_STATES + from.index());
        self.bump(region::TCP_STATES + to.index(), 1);
    }

    /// Flows now, and created ever.
    #[must_use]
    pub fn flows(&self, class: ProtocolClass) -> (u64, u64) {
        (self.word(region::FLOWS + class.index()), self.word(region::FLOWS_CREATED + class.index()))
    }

    /// Flows ended.
    #[must_use]
    pub fn flows_ended(&self, class: ProtocolClass, why: FlowEnd) -> u64 {
        self.word(region::FLOWS_ENDED + class.index() * FlowEnd::COUNT + why.index())
    }

    /// Flows in a TCP state now.
    #[must_use]
    pub fn flows_in(&self, state: TcpState) -> u64 {
        self.word(region::TCP_STATES + state.index())
    }

    /// Counts a new binding.
    pub fn binding_created(&mut self, class: ProtocolClass, pool: usize) {
        self.bump(region::BINDINGS + class.index(), 1);
        self.bump(region::BINDINGS_CREATED + class.index(), 1);
        if pool < crate::MAX_POOLS {
            self.bump(region::POOL_PORTS + pool * ProtocolClass::COUNT + class.index(), 1);
        }
    }

    /// Counts a binding that ended.
    pub fn binding_ended(&mut self, class: ProtocolClass, pool: usize) {
        self.lower(region::BINDINGS + class.index());
        if pool < crate::MAX_POOLS {
            self.lower(region::POOL_PORTS + pool * ProtocolClass::COUNT + class.index());
        }
    }

    /// Bindings now, and created ever.
    #[must_use]
    pub fn bindings(&self, class: ProtocolClass) -> (u64, u64) {
        (self.word(region::BINDINGS + class.index()), self.word(region::BINDINGS_CREATED + class.index()))
    }

    /// Ports of a pool in use.
    #[must_use]
    pub fn pool_ports(&self, pool: usize, class: ProtocolClass) -> u64 {
        if pool < crate::MAX_POOLS {
            self.word(region::POOL_PORTS + pool * ProtocolClass::COUNT + class.index())
        } else {
            0
        }
    }

    /// Counts a refusal for want of a port.
    pub fn pool_exhausted(&mut self, pool: usize) {
        if pool < crate::MAX_POOLS {
            self.bump(region::POOL_EXHAUSTED + pool, 1);
        }
    }

    /// Refusals for want of a port.
    #[must_use]
    pub fn pool_exhaustions(&self, pool: usize) -> u64 {
        if pool < crate::MAX_POOLS { self.word(region::POOL_EXHAUSTED + pool) } else { 0 }
    }

    /// Counts an ICMP error made (`sent`) or held back by the rate limit.
    pub fn icmp(&mut self, kind: IcmpKind, sent: bool) {
        let region = if sent { region::ICMP_GENERATED } else { region::ICMP_SUPPRESSED };
        self.bump(region + kind.index(), 1);
    }

    /// ICMP errors made, and held back.
    #[must_use]
    pub fn icmp_errors(&self, kind: IcmpKind) -> (u64, u64) {
        (self.word(region::ICMP_GENERATED + kind.index()), self.word(region::ICMP_SUPPRESSED + kind.index()))
    }

    /// Counts what the firewall said to a first packet.
    pub fn verdict(&mut self, from: crate::ZoneId, to: crate::ZoneId, action: FirewallAction) {
        if from.index() < crate::MAX_ZONES && to.index() < crate::MAX_ZONES {
            let pair = from.index() * crate::MAX_ZONES + to.index();
            self.bump(region::VERDICTS + pair * FirewallAction::COUNT + action.index(), 1);
        }
    }

    /// Verdicts for a zone pair.
    #[must_use]
    pub fn verdicts(&self, from: crate::ZoneId, to: crate::ZoneId, action: FirewallAction) -> u64 {
        if from.index() < crate::MAX_ZONES && to.index() < crate::MAX_ZONES {
            let pair = from.index() * crate::MAX_ZONES + to.index();
            self.word(region::VERDICTS + pair * FirewallAction::COUNT + action.index())
        } else {
            0
        }
    }

    /// Packets in and packets out by the equation of this module; equal at every publication.
    #[must_use]
    pub fn conservation(&self) -> (u64, u64) {
        let came = [Counter::Received, Counter::Injected, Counter::CrossedIn, Counter::Generated];
        let went = [Counter::Sent, Counter::Punted, Counter::CrossedOut, Counter::Held];
        let sum =
            |list: [Counter; 4]| list.iter().fold(0u64, |sum, &counter| sum.wrapping_add(self.get(counter)));
        (sum(came), sum(went).wrapping_add(self.total_drops()))
    }

    /// Adds another worker's counters, gauges included.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.words.iter_mut().zip(other.words.iter()) {
            *mine = mine.wrapping_add(*theirs);
        }
    }
}
