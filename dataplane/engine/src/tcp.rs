//! The state of a TCP flow (RFC 7857, section 2, figure 1).
//!
//! "Client" is the end that opened the flow. The machine never refuses a segment of an existing flow: a
//! translator that guesses wrong about a connection breaks it (RFC 2979, section 3).

use turnpike_abi::counters::{FlowEnd, TcpState};
use turnpike_wire::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

/// The state after a segment with `flags` from the client or the server.
#[must_use]
pub(crate) fn next(state: TcpState, flags: u8, from_client: bool) -> TcpState {
    let has = |flag| flags & flag != 0;
    if has(TCP_RST) {
        // RFC 7857 2.2: a reset is translated and the session kept; a later packet revives it. Figure 1 has
        // that way from ESTABLISHED alone: else SYN, RST, ACK of one end would establish what nobody answered.
        return match state {
            TcpState::Established => TcpState::Transitory,
            TcpState::None => TcpState::Init,
            state => state,
        };
    }
    match state {
        TcpState::None | TcpState::Init => {
            if !from_client && has(TCP_SYN) {
                TcpState::Established
            } else {
                TcpState::Init
            }
        }
        TcpState::Established if has(TCP_FIN) => {
            if from_client {
                TcpState::ClientFin
            } else {
                TcpState::ServerFin
            }
        }
        TcpState::Established => TcpState::Established,
        TcpState::ClientFin if has(TCP_FIN) && !from_client => TcpState::BothFin,
        TcpState::ServerFin if has(TCP_FIN) && from_client => TcpState::BothFin,
        TcpState::ClientFin => TcpState::ClientFin,
        TcpState::ServerFin => TcpState::ServerFin,
        // The same endpoints open again before the wait is over (RFC 9293, section 3.6.1).
        TcpState::BothFin if opens(flags) && from_client => TcpState::Init,
        TcpState::BothFin => TcpState::BothFin,
        TcpState::Transitory if opens(flags) && from_client => TcpState::Init,
        TcpState::Transitory => TcpState::Established,
    }
}

/// Whether a segment may open a flow: a SYN without ACK, with data or without (RFC 7413).
#[must_use]
pub(crate) const fn opens(flags: u8) -> bool {
    flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN
}

/// What ended a flow whose timeout ran out in this state.
#[must_use]
pub(crate) const fn ending(state: TcpState) -> FlowEnd {
    match state {
        TcpState::BothFin => FlowEnd::Fin,
        TcpState::Transitory => FlowEnd::Rst,
        TcpState::None
        | TcpState::Init
        | TcpState::Established
        | TcpState::ClientFin
        | TcpState::ServerFin => FlowEnd::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: bool = true;
    const SERVER: bool = false;

    fn run(steps: &[(u8, bool)]) -> TcpState {
        steps.iter().fold(TcpState::None, |state, &(flags, from)| next(state, flags, from))
    }

    #[test]
    fn upd_1_the_machine_is_that_of_figure_1() {
        use TcpState::{BothFin, ClientFin, Established, Init, ServerFin, Transitory};
        let fin = TCP_FIN | TCP_ACK;
        let open = [(TCP_SYN, CLIENT), (TCP_SYN | TCP_ACK, SERVER)];
        let after = |more: &[(u8, bool)]| run(&[&open[..], more].concat());
        assert_eq!(run(&[(TCP_SYN, CLIENT)]), Init);
        assert_eq!(run(&[(TCP_SYN, CLIENT), (TCP_SYN, CLIENT)]), Init);
        assert_eq!(after(&[]), Established);
        assert_eq!(after(&[(TCP_ACK, CLIENT), (TCP_ACK, SERVER)]), Established);
        assert_eq!(after(&[(fin, CLIENT)]), ClientFin);
        assert_eq!(after(&[(fin, CLIENT), (fin, CLIENT), (TCP_ACK, SERVER)]), ClientFin);
        assert_eq!(after(&[(fin, SERVER)]), ServerFin);
        assert_eq!(after(&[(fin, CLIENT), (fin, SERVER)]), BothFin);
        assert_eq!(after(&[(fin, SERVER), (fin, CLIENT), (TCP_ACK, SERVER)]), BothFin);
        assert_eq!(after(&[(TCP_RST, SERVER)]), Transitory);
        assert_eq!(after(&[(TCP_RST, CLIENT), (TCP_RST, CLIENT)]), Transitory);
        assert_eq!(run(&[(TCP_SYN, CLIENT), (TCP_RST, CLIENT), (TCP_ACK, CLIENT)]), Init);
        assert_eq!(after(&[(fin, CLIENT), (TCP_RST, SERVER)]), ClientFin);
        assert_eq!(after(&[(fin, CLIENT), (fin, SERVER), (TCP_RST, CLIENT), (TCP_ACK, SERVER)]), BothFin);
        assert_eq!(after(&[(fin, CLIENT), (fin, SERVER), (TCP_SYN, CLIENT)]), Init);
    }

    #[test]
    fn upd_3_a_packet_after_a_reset_revives_the_session() {
        let steps = [(TCP_SYN, CLIENT), (TCP_SYN | TCP_ACK, SERVER), (TCP_RST, SERVER), (TCP_ACK, CLIENT)];
        assert_eq!(run(&steps), TcpState::Established);
    }

    #[test]
    fn tcp_2a_simultaneous_open_establishes() {
        assert_eq!(
            run(&[(TCP_SYN, CLIENT), (TCP_SYN, SERVER), (TCP_SYN | TCP_ACK, CLIENT)]),
            TcpState::Established
        );
    }
}
