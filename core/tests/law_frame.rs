//! Laws of the frame codec over random frames and splits.

use nitrotap_core::frame::{Batch, Decoder, Framing, MAX_FRAME, MIN_FRAME, PREFIX_LEN, Refused};
use quickcheck::quickcheck;

quickcheck! {
    fn what_is_batched_is_decoded_whatever_the_sizes_of_writes_and_reads(
        lens: Vec<u16>, target: u16, writes: Vec<u16>, reads: Vec<u16>
    ) -> bool {
        let mut batch = Batch::new(usize::from(target), MAX_FRAME);
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        let mut writes = cycle(&writes);
        for (i, len) in lens.into_iter().enumerate() {
            let frame: Vec<u8> = (0..len).map(|b| (usize::from(b) ^ i) as u8).collect();
            while batch.slot().is_none() {
                write(&mut batch, &mut stream, writes.next().expect("cycles"));
            }
            batch.slot().expect("just seen")[..frame.len()].copy_from_slice(&frame);
            match batch.commit(frame.len()) {
                Ok(()) => sent.push(frame),
                Err(refused) => assert_eq!((refused, frame.len() < MIN_FRAME), (Refused::Runt, true)),
            }
        }
        while !batch.pending().is_empty() {
            write(&mut batch, &mut stream, writes.next().expect("cycles"));
        }

        let mut decoder = Decoder::new(1000);
        let received = decode(&mut decoder, &stream, &reads);
        received == sent && decoder.runts() == 0 && decoder.finish().is_ok()
    }

    fn what_is_prefixed_is_decoded_with_either_framing_at_any_split(lens: Vec<u16>, reads: Vec<u16>, long: u16) -> bool {
        [Framing::Hyperkit, Framing::Qemu].into_iter().all(|framing| {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            let longest = framing.max_frame() - usize::from(long);
            for (i, len) in lens.iter().map(|len| usize::from(*len)).chain([longest]).enumerate() {
                let frame: Vec<u8> = (0..len).map(|b| (b ^ i) as u8).collect();
                match framing.prefix(len) {
                    Ok((prefix, n)) => {
                        stream.extend(&prefix[..n]);
                        stream.extend(&frame);
                        sent.push(frame);
                    }
                    Err(refused) => assert_eq!((refused, len < MIN_FRAME), (Refused::Runt, true)),
                }
            }
            let mut decoder = Decoder::with_framing(1000, framing);
            let received = decode(&mut decoder, &stream, &reads);
            received == sent && decoder.runts() == 0 && decoder.finish().is_ok() && decoder.broken().is_none()
        })
    }

    fn a_batch_never_exceeds_its_target_by_more_than_a_frame(lens: Vec<u16>, target: u16) -> bool {
        let mut batch = Batch::new(usize::from(target), MAX_FRAME);
        lens.into_iter().all(|len| {
            if batch.slot().is_none() {
                let n = batch.pending().len();
                batch.consume(n);
            }
            batch.slot().expect("just emptied")[..usize::from(len)].fill(0);
            let _ = batch.commit(usize::from(len));
            batch.pending().len() < usize::from(target).max(1) + PREFIX_LEN + MAX_FRAME
        })
    }

    fn clearing_at_any_point_counts_exactly_the_frames_that_are_not_whole_on_the_stream(lens: Vec<u16>, cut: usize) -> bool {
        let lens: Vec<u16> = lens.into_iter().map(|len| len.max(MIN_FRAME as u16) % 2000 + MIN_FRAME as u16).collect();
        let mut batch = Batch::new(1 << 20, MAX_FRAME);
        for len in &lens {
            batch.slot().expect("a megabyte is enough")[..usize::from(*len)].fill(0);
            batch.commit(usize::from(*len)).expect("legal length");
        }
        let cut = cut % (batch.pending().len() + 1);
        batch.consume(cut);
        let mut whole = 0;
        let mut end = 0;
        for len in &lens {
            end += PREFIX_LEN + usize::from(*len);
            whole += usize::from(end <= cut);
        }
        batch.clear() == (lens.len() - whole) as u64
    }
}

/// Everything that comes out of `stream` in reads of these sizes.
fn decode(decoder: &mut Decoder, stream: &[u8], reads: &[u16]) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    let mut reads = cycle(reads);
    let mut rest = stream;
    while !rest.is_empty() {
        let n = reads.next().expect("cycles").min(rest.len()).min(decoder.space().len());
        decoder.space()[..n].copy_from_slice(&rest[..n]);
        decoder.commit(n);
        rest = &rest[n..];
        while let Some(frame) = decoder.next_frame() {
            received.push(frame.to_vec());
        }
    }
    received
}

/// The sizes over and over, none of them zero.
fn cycle(sizes: &[u16]) -> impl Iterator<Item = usize> + '_ {
    sizes.iter().copied().chain([1500]).cycle().map(|n| usize::from(n).max(1))
}

fn write(batch: &mut Batch, stream: &mut Vec<u8>, at_most: usize) {
    let n = at_most.min(batch.pending().len());
    stream.extend_from_slice(&batch.pending()[..n]);
    batch.consume(n);
}
