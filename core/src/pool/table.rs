//! A bounded table with serial-numbered entries, and lists threaded through it.
//!
//! Everything is O(1) and allocates only while the table grows to its high-water mark. An entry is in at most one
//! list at a time; the caller knows which.

const NONE: u32 = u32::MAX;

/// Entries by slot; a slot is reused, a serial number never.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    next_serial: u64,
    max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    serial: u64,
    prev: u32,
    next: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// An empty table for `max` entries, at least one.
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Vec::new(), free: Vec::new(), next_serial: 0, max: max.clamp(1, NONE as usize) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.max
    }

    /// A serial number without an entry.
    pub(super) fn skip_serial(&mut self) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        serial
    }

    /// Adds an entry: its serial number and slot, or `None` when the table is full.
    pub(super) fn insert(&mut self, value: T) -> Option<(u64, u32)> {
        if self.is_full() {
            return None;
        }
        let serial = self.skip_serial();
        let entry = Entry { serial, prev: NONE, next: NONE, value: Some(value) };
        let slot = if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = entry;
            slot
        } else {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        };
        Some((serial, slot))
    }

    /// The entry in `slot`, if it is still the one numbered `serial`.
    pub(super) fn get_mut(&mut self, serial: u64, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize).filter(|e| e.serial == serial)?.value.as_mut()
    }

    /// The value in a slot known to be in use, with its serial number.
    pub(super) fn at(&self, slot: u32) -> (u64, &T) {
        let entry = &self.entries[slot as usize];
        (entry.serial, entry.value.as_ref().expect("slots in a list are in use: remove() follows unlink()"))
    }

    /// Frees a slot that is in no list.
    pub(super) fn remove(&mut self, slot: u32) {
        if self.entries[slot as usize].value.take().is_some() {
            self.free.push(slot);
        }
    }
}

/// A doubly linked list through a [`Table`], in order of insertion.
#[derive(Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: usize,
}

impl List {
    pub(super) const fn new() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn back(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    pub(super) fn push_back<T>(&mut self, table: &mut Table<T>, slot: u32) {
        let entry = &mut table.entries[slot as usize];
        entry.prev = self.tail;
        entry.next = NONE;
        match self.tail {
            NONE => self.head = slot,
            tail => table.entries[tail as usize].next = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Takes `slot`, which must be in this list, out of it.
    pub(super) fn unlink<T>(&mut self, table: &mut Table<T>, slot: u32) {
        let Entry { prev, next, .. } = table.entries[slot as usize];
        match prev {
            NONE => self.head = next,
            prev => table.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => table.entries[next as usize].prev = prev,
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_its_former_serial_number() {
        let mut table = Table::new(1);
        let (old, slot) = table.insert('a').unwrap();
        assert_eq!(table.insert('b'), None);
        table.remove(slot);
        let (new, same_slot) = table.insert('c').unwrap();
        assert_eq!(slot, same_slot);
        assert_eq!(table.get_mut(old, slot), None);
        assert_eq!(table.get_mut(new, slot), Some(&mut 'c'));
    }

    #[test]
    fn entries_leave_a_list_from_either_end_and_from_the_middle() {
        let mut table = Table::new(5);
        let mut list = List::new();
        let slots: Vec<u32> = (0..5).map(|i| table.insert(i).unwrap().1).collect();
        for &slot in &slots {
            list.push_back(&mut table, slot);
        }
        for slot in [slots[2], slots[0], slots[4]] {
            list.unlink(&mut table, slot);
        }
        assert_eq!((list.front(), list.back(), list.len()), (Some(slots[1]), Some(slots[3]), 2));
        list.unlink(&mut table, slots[1]);
        list.unlink(&mut table, slots[3]);
        assert_eq!((list.front(), list.back(), list.len()), (None, None, 0));
    }
}
