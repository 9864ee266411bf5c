//! `turnpike nat`: the mappings of deterministic pools.

use crate::args::{Cli, NatAction};
use crate::commands::ask;
use crate::output::{DONE, Failure, Output};
use turnpike_api::{NatForward, NatForwardData, NatReverse, NatReverseData, PortHolder, Request};

/// Asks the control plane and prints its answer.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(cli: &Cli, action: &NatAction, output: &mut Output<'_>) -> Result<u8, Failure> {
    match *action {
        NatAction::Forward { address, time } => {
            let request = Request::NatForward(NatForward { inside: address, time });
            let answer = ask::<NatForwardData>(cli, &request)?;
            output.answer(&answer, |out, data| {
                let ports: Vec<String> = data.ports.iter().map(ToString::to_string).collect();
                let (inside, external, pool) = (data.inside, data.external, &data.pool);
                writeln!(out, "{inside} has {external} ports {} of pool {pool}", ports.join(", "))
            })?;
        }
        NatAction::Reverse { external, port, time } => {
            let answer =
                ask::<NatReverseData>(cli, &Request::NatReverse(NatReverse { external, port, time }))?;
            output.answer(&answer, |out, data| {
                let NatReverseData { external, port, pool, .. } = data;
                let whose = match (data.holder, data.inside) {
                    (PortHolder::Inside, Some(inside)) => format!("is {inside}'s"),
                    (PortHolder::Inside | PortHolder::Dynamic, _) => {
                        "is of the dynamic share: see the log of block assignments".to_owned()
                    }
                    (PortHolder::Unassigned, _) => "is of a range that nobody has".to_owned(),
                    (PortHolder::Reserved, _) => "is not given out but by pinhole".to_owned(),
                };
                writeln!(out, "{external} port {port} of pool {pool} {whose}")
            })?;
        }
    }
    Ok(DONE)
}
