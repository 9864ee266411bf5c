//! Bindings of one flow and nothing else: the flow's record stands for both.
//!
//! Nearly all bindings of a carrier are so, and need no memory and no line of their own. Such a binding has a number
//! that tells its flow. It gets a record, and with it another number, when a second flow, a pinhole or another shape of
//! its pool comes to it; it keeps that to its end.

use super::{Binding, Bindings, MOST, Unbound, class_of};
use crate::Time;
use crate::flows::{Flows, ends_of, remote_of};
use crate::policy::Policy;
use crate::ports::{Class, Entry, Place, Taken};
use turnpike_abi::Address;
use turnpike_abi::counters::{Counters, DropReason};
use turnpike_abi::flow::{CREATED_SHIFT, FlowRecord, NONE};

/// The bit of a binding's number that says so; the others are its flow's.
const SOLE: u32 = MOST as u32;

/// The number of the binding that a flow's record stands for.
pub(crate) const fn binding_of(flow: u32) -> u32 {
    SOLE | flow
}

/// The flow whose record stands for a binding, if one does.
pub(crate) const fn flow_of(binding: u32) -> Option<u32> {
    if binding != NONE && binding & SOLE != 0 { Some(binding & !SOLE) } else { None }
}

impl Bindings {
    /// A binding for the flow with the number `flow`, which is about to be opened and will be its only one.
    ///
    /// # Errors
    /// The reason to drop the flow's first packet.
    #[inline(always)]
    pub(crate) fn bind_sole(
        &mut self,
        policy: &Policy,
        unbound: &Unbound,
        flow: u32,
        now: Time,
        counters: &mut Counters,
    ) -> Result<Taken, DropReason> {
        let number = binding_of(flow);
        if self.room() == 0 || flow >= SOLE - 1 {
            return Err(DropReason::BindingLimit);
        }
        let (taken, _) = self.take_port(policy, unbound, now, Entry::Bound(number), counters)?;
        self.soles += 1;
        counters.binding_created(class_of(unbound.protocol), unbound.pool.index());
        Ok(taken)
    }

    /// Counts the flow in for which [`Bindings::bind_sole`] was called, with its remote address.
    pub(crate) fn sole_opened(&mut self, flow: u32, subscriber: u32, to: [u8; 4]) {
        self.ports.count_flow(subscriber, true);
        self.asked(binding_of(flow), Address::v4(to));
    }

    /// Whether a flow's record stands for the binding of an inside end in a pool, if it does for one.
    pub(super) fn is_sole_of(&self, record: &FlowRecord, key: (u8, [u8; 4], u16, super::PoolId)) -> bool {
        let (protocol, inside, port, pool) = key;
        let (end, (external, _)) = ends_of(record);
        end == (inside, port) && record.protocol == protocol && self.ports.pool_of(external) == Some(pool)
    }

    /// Where the port of a flow's binding lies, which has no record.
    fn place_of(&self, record: &FlowRecord) -> Option<Place> {
        let (_, (external, port)) = ends_of(record);
        self.ports.place(external, Class::of(class_of(record.protocol))?, port)
    }

    /// A binding, with a record or without.
    pub(crate) fn copy(&self, flows: &Flows, number: u32) -> Option<Binding> {
        match flow_of(number) {
            Some(flow) => self.of_flow(flows, flow).map(|(binding, _)| binding),
            None => self.record(number).copied(),
        }
    }

    /// The binding that a flow's record stands for, and where its port lies.
    fn of_flow(&self, flows: &Flows, flow: u32) -> Option<(Binding, Place)> {
        let (record, created) = (flows.record(flow)?, flows.cold(flow)?.created);
        let place = self.place_of(record)?;
        let (inside, (external, port)) = ends_of(record);
        let taken = Taken { subscriber: self.ports.owner_of(&place), external, port };
        let began = Time(u64::from(created) << CREATED_SHIFT);
        let binding = Binding::new(&taken, inside, place.pool, record.protocol, began);
        Some((Binding { first_flow: flow, ..binding }, place))
    }

    /// Gives the binding that a flow's record stood for a record of its own. Returns its number from now on.
    pub(crate) fn give_record(&mut self, flows: &mut Flows, flow: u32) -> Option<u32> {
        let ((binding, place), was) = (self.of_flow(flows, flow)?, binding_of(flow));
        let number = self.next_place()?;
        if !self.file(flows, number, &binding) {
            return None;
        }
        flows.set_binding(flow, number);
        self.store(number, &binding);
        self.soles -= 1;
        self.ports.set_entry(&place, Entry::Bound(number));
        if let (Some(contacts), Some(record)) = (&mut self.contacts, flows.record(flow)) {
            contacts.remove(was, remote_of(record));
            contacts.add(number, remote_of(record));
        }
        Some(number)
    }

    /// As [`Bindings::leaving`], for the binding that a flow's record stands for: nothing but its port is to be given back.
    pub(crate) fn leaving_with(&self, record: &FlowRecord) -> Option<Place> {
        let place = self.place_of(record)?;
        self.ports.prefetch_place(&place);
        Some(place)
    }

    /// Counts out the flow whose record stands for its binding. To be told before that is removed.
    pub(crate) fn sole_ended(&mut self, (flow, record): (u32, &FlowRecord), place: &Place) {
        if let Some(contacts) = &mut self.contacts {
            contacts.remove(binding_of(flow), remote_of(record));
        }
        self.ports.count_flow(self.ports.owner_of(place), false);
    }

    /// Removes the binding that a flow's record stands for, and frees its port.
    pub(crate) fn remove_sole(&mut self, record: &FlowRecord, place: &Place, counters: &mut Counters) {
        self.soles -= 1;
        let subscriber = self.ports.owner_of(place);
        counters.binding_ended(class_of(record.protocol), place.pool.index());
        self.ports.release_at(subscriber, place.class, Some(place));
    }
}
