"""Malformed packets, one for each reason that a raw socket can bring about. Each must end in its own counter."""

import struct

from .lab import Failure, Lab, Skipped, until


def _layers():
    from scapy.layers import inet, inet6, l2
    from scapy.packet import Raw
    return inet, inet6, l2, Raw


class Frames:
    """Builds frames from the subscriber to the box."""

    def __init__(self, lab):
        self.inet, self.inet6, self.l2, self.raw = _layers()
        self.xdp = lab.driver == "af_xdp"
        self.ether = self.l2.Ether(dst=lab.station("subscriber", Lab.BOX_INSIDE), src="02:00:00:00:00:77")

    def ip(self, **fields):
        """An IPv4 header from the subscriber to the internet host."""
        return self.inet.IP(**{"src": Lab.SUBSCRIBER, "dst": Lab.INTERNET, **fields})

    def ip6(self, **fields):
        """The same of IPv6."""
        return self.inet6.IPv6(**{"src": Lab.SUBSCRIBER_V6, "dst": Lab.INTERNET_V6, **fields})

    def data(self, length):
        """`length` bytes."""
        return self.raw(bytes(length))

    def cut(self, packet, length):
        """The frame around the first `length` bytes of a packet that says it is longer."""
        return bytes(self.ether / packet)[:14 + length]

    def with_options(self, options):
        """A datagram whose IPv4 header ends in `options` as they are, with a right checksum."""
        from scapy.utils import checksum
        header = bytes(self.ip(ihl=5 + len(options) // 4, len=28 + len(options), proto=17, chksum=0)) + options
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
        return bytes(self.ether)[:12] + b"\x08\x00" + header + bytes(self.inet.UDP(len=8))

    def ethernet(self):
        """Below IP."""
        l2 = self.l2
        yield "mac_not_ours", l2.Ether(dst="02:00:00:00:12:34", src=self.ether.src) / self.ip() / self.inet.UDP()
        # Over AF_XDP the kernel keeps the tag to itself.
        if not self.xdp:
            yield "vlan_unknown", self.ether / l2.Dot1Q(vlan=77) / self.ip() / self.inet.UDP()
        yield "ethertype_unknown", l2.Ether(dst=self.ether.dst, src=self.ether.src, type=0x88B5) / self.data(46)
        yield "arp_malformed", l2.Ether(dst=self.ether.dst, src=self.ether.src, type=0x0806) / self.data(10)

    def ipv4(self):
        """The IPv4 header."""
        inet = self.inet
        yield "ip4_truncated", self.cut(self.ip() / inet.UDP(), 12)
        yield "ip4_bad_version", self.ether / self.ip(version=5) / inet.UDP()
        yield "ip4_bad_ihl", self.ether / self.ip(ihl=4) / inet.UDP()
        yield "ip4_bad_ihl", self.ether / self.ip(ihl=15) / inet.UDP()
        yield "ip4_bad_total_length", self.ether / self.ip(len=19) / inet.UDP()
        yield "ip4_bad_total_length", self.ether / self.ip(len=1400) / inet.UDP()
        yield "ip4_bad_checksum", self.ether / self.ip(chksum=0x1234) / inet.UDP()
        yield "ip4_bad_options", self.with_options(b"\x07\x01\x00\x00")
        yield "ip4_bad_options", self.with_options(b"\x07\x28\x04\x00")
        yield "ip_options_src_route", self.ether / self.ip(options=inet.IPOption_LSRR(routers=["203.0.113.9"])) / inet.UDP()
        yield "ip_options_src_route", self.ether / self.ip(options=inet.IPOption_SSRR(routers=["203.0.113.9"])) / inet.UDP()
        yield "martian_source", self.ether / self.ip(src="127.0.0.1") / inet.UDP()
        yield "martian_source", self.ether / self.ip(src="224.0.0.1") / inet.UDP()
        yield "martian_destination", self.ether / self.ip(dst="127.0.0.1") / inet.UDP()
        yield "martian_destination", self.ether / self.ip(dst="240.0.0.1") / inet.UDP()
        yield "spoofed_source", self.ether / self.ip(src="198.51.100.77") / inet.UDP()
        yield "proto_unsupported", self.ether / self.ip(proto=253) / self.data(20)

    def ipv6(self):
        """The IPv6 header and its extensions."""
        inet, inet6 = self.inet, self.inet6
        options = inet6.IPv6ExtHdrDestOpt
        yield "ip6_truncated", self.cut(self.ip6() / inet.UDP(), 30)
        yield "ip6_bad_version", self.ether / self.ip6(version=7) / inet.UDP()
        yield "ip6_bad_payload_length", self.ether / self.ip6(plen=1400) / inet.UDP()
        yield "ip6_ext_truncated", self.ether / self.ip6(nh=0) / self.raw(b"\x11\x09" + bytes(6))
        yield "ip6_ext_order", self.ether / self.ip6() / options() / inet6.IPv6ExtHdrHopByHop() / inet.UDP()
        chain = self.ip6()
        for _ in range(30):
            chain = chain / options()
        yield "ip6_ext_limit", self.ether / chain / inet.UDP()
        yield "ip6_routing_header0", self.ether / self.ip6() / inet6.IPv6ExtHdrRouting(addresses=[Lab.FAR_V6], segleft=1) / inet.UDP()
        yield "martian_source", self.ether / self.ip6(src="ff02::1") / inet.UDP()
        yield "martian_destination", self.ether / self.ip6(dst="::1") / inet.UDP()
        yield "spoofed_source", self.ether / self.ip6(src="fd00:99::1") / inet.UDP()

    def fragments(self):
        """Fragments that no datagram can be made of."""
        inet = self.inet
        yield "frag_tiny", self.ether / self.ip(flags="MF", proto=6) / self.data(8)
        yield "frag_offset_one", self.ether / self.ip(frag=1, proto=6) / self.data(32)
        yield "frag_overrun", self.ether / self.ip(frag=8189, proto=17) / self.data(64)
        yield "frag_bad_length", self.ether / self.ip(flags="MF", frag=4, proto=17) / self.data(13)
        yield "frag_icmp_error", self.ether / self.ip(id=901, flags="MF") / inet.ICMP(type=3, code=1) / self.data(64)
        def first(number):
            return self.ether / self.ip(id=number, flags="MF") / inet.UDP(sport=50126, len=200, chksum=1) / self.data(56)

        yield "frag_dup", [first(902), first(902)]
        yield "frag_overlap", [first(904), self.ether / self.ip(id=904, frag=7, proto=17) / self.data(36)]
        yield "frag_timeout", self.ether / self.ip(id=903, frag=8, proto=17) / self.data(36)

    def transport(self):
        """TCP and UDP."""
        inet = self.inet
        yield "tcp_truncated", self.ether / self.ip(proto=6) / self.data(12)
        yield "tcp_bad_offset", self.ether / self.ip() / inet.TCP(dataofs=4, flags="S")
        yield "tcp_bad_offset", self.ether / self.ip() / inet.TCP(dataofs=15, flags="S")
        for flags in ("", "SF", "SR", "F"):
            yield "tcp_bad_flags", self.ether / self.ip() / inet.TCP(flags=flags)
        yield "syn_required", self.ether / self.ip() / inet.TCP(sport=50123, dport=50124, flags="A")
        yield "udp_truncated", self.ether / self.ip(proto=17) / self.data(6)
        yield "udp_bad_length", self.ether / self.ip() / inet.UDP(len=7)
        yield "udp_bad_length", self.ether / self.ip() / inet.UDP(len=900)
        yield "ttl_expired", self.ether / self.ip(ttl=1) / inet.UDP(sport=50125)

    def icmp(self):
        """ICMP and what it quotes."""
        inet = self.inet
        quoted = self.ip(src=Lab.INTERNET, dst=Lab.SUBSCRIBER) / inet.UDP(sport=61, dport=62) / self.data(8)
        yield "icmp_truncated", self.ether / self.ip(proto=1) / self.data(4)
        yield "icmp_bad_csum", self.ether / self.ip() / inet.ICMP(type=3, code=1, chksum=0x1234) / self.raw(bytes(quoted))
        yield "icmp_inner_truncated", self.ether / self.ip() / inet.ICMP(type=3, code=1) / self.raw(bytes(quoted)[:16])
        broken = self.ip(src=Lab.INTERNET, dst=Lab.SUBSCRIBER, chksum=0x1234) / inet.UDP(sport=61, dport=62) / self.data(8)
        yield "icmp_inner_bad_csum", self.ether / self.ip() / inet.ICMP(type=3, code=1) / self.raw(bytes(broken))
        error = self.ip(src=Lab.INTERNET, dst=Lab.SUBSCRIBER) / inet.ICMP(type=3, code=1) / self.raw(bytes(quoted))
        yield "icmp_double_error", self.ether / self.ip() / inet.ICMP(type=3, code=1) / self.raw(bytes(error))
        yield "icmp_unknown_type", self.ether / self.ip() / inet.ICMP(type=42)
        yield "icmp_no_session", self.ether / self.ip() / inet.ICMP(type=3, code=1) / self.raw(bytes(quoted))
        yield "icmp_reply_unasked", self.ether / self.ip() / inet.ICMP(type=0, id=struct.unpack("!H", b"zz")[0])


def _check(lab, frames):
    wrong, reasons = [], set()
    for reason, frame in frames:
        reasons.add(reason)
        before = lab.drops()
        # Of several frames the last is the one; together, lest the others be forgotten by then.
        lab.send_frames("subscriber", frame if isinstance(frame, list) else [frame])
        try:
            changed = _one_more(lab, reason, before)
        except Failure:
            changed = {name: count - before.get(name, 0) for name, count in lab.drops().items() if count > before.get(name, 0)}
        if changed.get(reason) != 1:
            wrong.append(f"{reason} became {changed or 'no drop'}")
    if wrong:
        raise Failure("; ".join(wrong))
    return f"{len(reasons)} reasons"


def _one_more(lab, reason, before):
    def probe():
        count = lab.drops().get(reason, 0) - before.get(reason, 0)
        return {reason: count} if count else None
    return until(probe, 4, reason)


def malformed_ethernet(lab, _box):
    """Below IP."""
    return _check(lab, Frames(lab).ethernet())


def malformed_ipv4(lab, _box):
    """The IPv4 header."""
    return _check(lab, Frames(lab).ipv4())


def malformed_ipv6(lab, _box):
    """The IPv6 header and its extensions."""
    return _check(lab, Frames(lab).ipv6())


def malformed_fragments(lab, _box):
    """Fragments of every kind."""
    if lab.driver != "af_xdp":
        raise Skipped("over AF_PACKET the kernel joins fragments before DPDK sees them; --driver af_xdp runs this")
    return _check(lab, Frames(lab).fragments())


def malformed_transport(lab, _box):
    """TCP and UDP."""
    return _check(lab, Frames(lab).transport())


def malformed_icmp(lab, _box):
    """ICMP and what it quotes."""
    return _check(lab, Frames(lab).icmp())


CHECKS = [malformed_ethernet, malformed_ipv4, malformed_ipv6, malformed_fragments, malformed_transport, malformed_icmp]
