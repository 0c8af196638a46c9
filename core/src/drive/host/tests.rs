//! The loop, turn by turn, over a world that does what a test tells it.

mod guest;
mod world;

use super::{Config, Forward, LinkKind, Local, PASSES, RETRY, Request, Who};
use crate::{drive::Errno, gateway::turns};
use core::time::Duration;
use guest::{Lab, attach, attach_as, broadcast, datagram, framed, pattern, port_of_guest};
use smoltcp::socket::tcp;
use std::{cell::RefCell, rc::Rc};
use world::Done;

/// What a link may move in one turn: the constants of `link.rs`, and the last step.
const READ_SHARE: usize = (4 + 2) * (64 << 10);
const WRITE_SHARE: usize = (1 << 20) + (32 << 10);

#[test]
fn a_link_that_is_busy_both_ways_gets_one_share_of_each_turn() {
    let mut lab = Lab::new();
    let link = lab.link;
    let streams: Vec<usize> = (0..12).map(|_| lab.open().1).collect();
    // The link takes nothing, and the connections fill up behind it.
    lab.world().ends[link].room = 0;
    for stream in streams {
        lab.world().arrive(stream, &pattern(1 << 20));
    }
    lab.rest();
    // Now it takes everything, and never runs out of frames either. Nobody tells of it again: it has to come back by itself.
    let frame = framed(&datagram(&[7; 8000]));
    lab.world().ends[link].input.extend(frame.iter().cycle().take(4096 * frame.len()));
    lab.world().ends[link].room = usize::MAX;
    lab.world().tell_of(link, true, true, false);
    lab.world().moved(link);
    let mut both = 0;
    for _ in 0..6 {
        lab.turn();
        let (read, written) = lab.world().moved(link);
        assert!(read <= READ_SHARE && written <= WRITE_SHARE, "{read} bytes read, {written} written in one turn");
        both += u32::from(read > 0 && written >= 1 << 20);
    }
    assert!(both >= 2, "it was not busy both ways");
}

#[test]
fn news_of_a_busy_link_do_not_let_its_share_grow() {
    let mut lab = Lab::new();
    let link = lab.link;
    let frame = framed(&datagram(&[7; 8000]));
    lab.world().ends[link].input.extend(frame.iter().cycle().take(4096 * frame.len()));
    for _ in 0..12 {
        lab.world().tell_of(link, true, true, false);
        lab.turn();
        let (read, _) = lab.world().moved(link);
        // Its own turn, and the one for the news.
        assert!(read > 0 && read <= 2 * READ_SHARE, "{read} bytes in one turn");
    }
}

#[test]
fn an_end_behind_a_short_read_is_seen_without_further_news() {
    let mut lab = Lab::new();
    let (handle, stream) = lab.open();
    lab.world().arrive_last(stream, b"the last words");
    lab.step();
    lab.until("the end", |lab| lab.guest(handle).state() == tcp::State::CloseWait);
    assert_eq!(lab.got(handle), b"the last words");
    // And of a link, whose frames all count.
    let (link, datagram) = (lab.link, framed(&datagram(b"last")));
    lab.world().done.clear();
    lab.world().arrive_last(link, &datagram);
    lab.turn();
    assert!(lab.world().done.contains(&Done::Sent(b"last".to_vec())));
    assert_eq!((lab.host.links.len(), lab.ended.take()), (0, Some(())));
    assert!(lab.world().told.iter().any(|told| told.contains("the other side has closed it")));
}

#[test]
fn a_world_that_takes_no_more_is_still_heard() {
    let mut lab = Lab::new();
    let (handle, stream) = lab.open();
    lab.world().ends[stream].write_errors.push_back(Errno::PIPE);
    // The answer is there already, and nobody will tell of it again.
    lab.world().ends[stream].input.extend(b"413 too large");
    lab.guest(handle).send_slice(&pattern(100_000)).unwrap();
    let mut got = Vec::new();
    lab.until("the early answer", |lab| {
        got.extend(lab.got(handle));
        got == b"413 too large"
    });
    lab.guest(handle).send_slice(&pattern(100_000)).unwrap();
    lab.until("the rest is for nobody", |lab| lab.guest(handle).send_queue() == 0);
    assert!(lab.world().ends[stream].output.is_empty());
    assert_eq!(lab.guest(handle).state(), tcp::State::Established);
    lab.world().arrive_last(stream, b"");
    lab.until("the end", |lab| lab.guest(handle).state() == tcp::State::CloseWait);
}

#[test]
fn the_world_gets_the_end_behind_the_last_byte_and_not_before() {
    let mut lab = Lab::new();
    let (handle, stream) = lab.open();
    lab.world().ends[stream].room = 1000;
    let data = pattern(50_000);
    lab.guest(handle).send_slice(&data).unwrap();
    lab.guest(handle).close();
    for _ in 0..100 {
        lab.step();
    }
    assert_eq!(lab.world().ends[stream].output, data[..1000]);
    assert!(!lab.world().ends[stream].finished);
    lab.world().done.clear();
    lab.world().make_room(stream, 100_000);
    lab.step();
    assert_eq!(lab.world().ends[stream].output, data);
    let of_stream = |done: &&Done| matches!(done, Done::Wrote(to, _) | Done::Finished(to) if *to == stream);
    assert_eq!(lab.world().done.iter().rfind(of_stream), Some(&Done::Finished(stream)));
    // The other direction goes on.
    lab.world().arrive_last(stream, b"answer");
    lab.until("the answer", |lab| lab.guest(handle).recv_queue() == 6);
    assert_eq!(lab.got(handle), b"answer");
}

#[test]
fn a_connection_that_has_used_up_its_rate_goes_on_by_itself() {
    const RATE: u64 = 1 << 20;
    let mut lab = Lab::with(Config { flow_rate: Some(RATE), max_forwards: 0 });
    let (handle, stream) = lab.open();
    let data = pattern(3 << 20);
    lab.world().arrive(stream, &data);
    let (began, mut got) = (lab.world().now, Vec::new());
    lab.until("everything", |lab| {
        got.extend(lab.got(handle));
        got.len() == data.len()
    });
    assert!(got == data);
    let took = lab.world().now.since(began);
    // A second's worth at once, and the rest at its rate.
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn a_rate_that_is_used_up_wakes_nobody_while_there_is_nothing_to_move() {
    const RATE: u64 = 1 << 20;
    let mut lab = Lab::with(Config { flow_rate: Some(RATE), max_forwards: 0 });
    let (handle, stream) = lab.open();
    lab.world().arrive(stream, &pattern(RATE as usize));
    let mut got = 0;
    lab.until("all that may come at once", |lab| {
        got += lab.got(handle).len();
        got == RATE as usize
    });
    // It looks once whether there was more.
    lab.until("a look", |lab| lab.host.throttled.is_empty());
    for _ in 0..3 {
        lab.guest(handle).send_slice(b"more of the other direction").unwrap();
        lab.rest();
        assert!(lab.host.throttled.is_empty(), "{:?}", lab.host.throttled);
    }
    // Once there is something, one entry waits for it, however often the connection is looked at.
    lab.world().arrive(stream, &pattern(RATE as usize));
    for _ in 0..3 {
        lab.guest(handle).send_slice(b"more of the other direction").unwrap();
        lab.rest();
        assert_eq!(lab.host.throttled.len(), 1);
    }
}

#[test]
fn a_request_comes_before_a_frame_of_the_same_turn() {
    let mut lab = Lab::new();
    let (link, frame) = (lab.link, framed(&datagram(b"?")));
    lab.world().done.clear();
    lab.world().arrive(link, &frame);
    lab.world().requests.push_back(Request::Alive(Rc::default()));
    lab.turn();
    assert_eq!(lab.world().done[..2], [Done::Request, Done::Read(link, frame.len())]);
    assert!(lab.world().done.contains(&Done::Frame));
}

#[test]
fn requests_without_end_leave_others_their_turn() {
    let mut lab = Lab::new();
    let (link, frame) = (lab.link, framed(&datagram(b"?")));
    let many = 2 * turns::TURN as usize;
    lab.world().requests.extend((0..many).map(|_| Request::Alive(Rc::default())));
    lab.world().done.clear();
    lab.world().arrive(link, &frame);
    lab.turn();
    assert!(lab.world().done.contains(&Done::Frame) && !lab.world().requests.is_empty());
    // What is left over is seen to at once, though nobody tells of it.
    lab.turn();
    assert_eq!(lab.world().timeout, Some(Duration::ZERO));
    lab.rest();
    assert!(lab.world().requests.is_empty());
}

#[test]
fn a_shortage_is_tried_again_after_a_while_though_nobody_tells_of_its_end() {
    let mut lab = Lab::new();
    let (handle, stream) = lab.open();
    lab.world().ends[stream].read_errors.push_back(Errno::NOMEM);
    lab.world().arrive(stream, b"later");
    lab.turn();
    lab.turn();
    assert!(lab.world().timeout.is_some_and(|timeout| timeout > Duration::ZERO && timeout <= RETRY));
    lab.until("bytes", |lab| lab.guest(handle).recv_queue() == 5);
    // The link, in both directions.
    let (link, frame) = (lab.link, framed(&datagram(b"frame")));
    lab.world().ends[link].read_errors.push_back(Errno::NOBUFS);
    lab.world().ends[link].input.extend(&frame);
    lab.world().tell_of(link, true, false, false);
    lab.world().done.clear();
    lab.turn();
    assert!(!lab.world().done.contains(&Done::Frame));
    lab.pass(RETRY);
    lab.turn();
    assert!(lab.world().done.contains(&Done::Frame));
    lab.world().ends[link].write_errors.push_back(Errno::NOBUFS);
    lab.world().arrive(stream, b"frame");
    lab.turn();
    assert!(lab.world().ends[link].output.is_empty());
    lab.pass(RETRY);
    lab.turn();
    assert!(!lab.world().ends[link].output.is_empty());
    assert_eq!(lab.host.counters.shortages, 3);
}

#[test]
fn a_dial_is_answered_when_the_world_has_and_with_what_it_said() {
    let mut lab = Lab::new();
    lab.world().begun = Some(Errno::INPROGRESS);
    for (answer, state) in [(Ok(()), tcp::State::Established), (Err(Errno::CONNREFUSED), tcp::State::Closed)] {
        let (handle, before) = (lab.connect(), lab.world().dialed.len());
        lab.until("a dial", |lab| lab.world().dialed.len() > before);
        let stream = *lab.world().dialed.last().unwrap();
        for _ in 0..20 {
            lab.step();
        }
        assert_eq!(lab.guest(handle).state(), tcp::State::SynSent);
        lab.world().ends[stream].answer = answer;
        lab.world().tell_of(stream, false, true, answer.is_err());
        lab.until("the answer", |lab| lab.guest(handle).state() == state);
    }
    assert_eq!((lab.host.counters.dialed, lab.host.counters.dial_refused), (1, 1));
}

#[test]
fn a_reset_stays_a_reset_in_both_directions() {
    let mut lab = Lab::new();
    let (handle, stream) = lab.open();
    lab.world().ends[stream].read_errors.push_back(Errno::CONNRESET);
    lab.world().tell_of(stream, true, true, true);
    lab.until("a reset", |lab| lab.guest(handle).state() == tcp::State::Closed);
    let (handle, stream) = lab.open();
    lab.guest(handle).abort();
    lab.until("a reset", |lab| lab.world().ends[stream].reset);
    assert!(!lab.world().ends[stream].finished);
}

#[test]
fn news_of_a_connection_that_is_over_are_not_taken_for_the_next_one() {
    let mut lab = Lab::new();
    let (handle, old) = lab.open();
    lab.guest(handle).abort();
    lab.until("a reset", |lab| lab.world().ends[old].reset);
    lab.world().begun = Some(Errno::INPROGRESS);
    let (handle, before) = (lab.connect(), lab.world().dialed.len());
    lab.until("a dial", |lab| lab.world().dialed.len() > before);
    // It has the place of the old one, and the kernel's last news of that are still on their way.
    assert_eq!(lab.host.flows.len(), 1);
    lab.world().tell_of(old, true, true, true);
    for _ in 0..5 {
        lab.step();
    }
    assert_eq!(lab.guest(handle).state(), tcp::State::SynSent);
    let stream = *lab.world().dialed.last().unwrap();
    lab.world().tell_of(stream, false, true, false);
    lab.until("the answer", |lab| lab.guest(handle).state() == tcp::State::Established);
}

#[test]
fn what_came_with_a_link_is_its_first_frames() {
    let mut lab = Lab::new();
    let (first, second) = (framed(&datagram(b"first")), framed(&datagram(b"second")));
    let stream = lab.world().stream();
    // A frame and a half; the rest is in the stream, and was there before it was watched.
    let received = [&first[..], &second[..9]].concat();
    lab.world().ends[stream].input.extend(&second[9..]);
    lab.world().requests.push_back(attach(stream, received, Rc::default()));
    lab.world().done.clear();
    lab.rest();
    let sent: Vec<_> = lab.world().done.iter().filter(|done| matches!(done, Done::Sent(_))).cloned().collect();
    assert_eq!(sent, [Done::Sent(b"first".to_vec()), Done::Sent(b"second".to_vec())]);
}

#[test]
fn a_published_port_tells_who_comes_and_waits_where_descriptors_are_used_up() {
    let mut lab = Lab::new();
    // The loop knows the guest.
    let (link, frame) = (lab.link, framed(&datagram(b"hello")));
    lab.world().arrive(link, &frame);
    let forward = Forward {
        name: ":8443".to_owned(),
        local: Local::Tcp(([0, 0, 0, 0], 8443).into()),
        to: port_of_guest(),
        proxy_protocol: true,
    };
    let answer = Rc::new(RefCell::new(None));
    lab.world().requests.push_back(Request::Expose(Who::Operator, forward, Rc::clone(&answer)));
    lab.turn();
    assert!(answer.take().unwrap().is_ok());
    let server = lab.socket();
    lab.guest(server).listen(port_of_guest().port()).unwrap();
    let client = lab.world().stream();
    lab.world().ends[client].input.extend(b"request");
    lab.world().come(0, Err(Errno::from_raw(24)));
    lab.world().ports[0].clients.push_back(Ok(client));
    lab.turn();
    assert!(!lab.world().done.contains(&Done::Accepted));
    assert_eq!(lab.world().told.iter().filter(|told| told.contains("CannotAccept")).count(), 1);
    lab.pass(RETRY);
    lab.turn();
    assert!(lab.world().done.contains(&Done::Accepted));
    let mut got = Vec::new();
    lab.until("the request behind the header", |lab| {
        got.extend(lab.got(server));
        got.ends_with(b"request")
    });
    assert_eq!(got[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(got.len(), 16 + 12 + 7);
}

#[test]
fn a_message_that_is_too_long_is_left_out_and_each_frame_is_shown_once() {
    let mut lab = Lab::new();
    let (link, stream) = (lab.link, lab.world().stream());
    lab.world().requests.push_back(attach_as(LinkKind::Messages, stream, Vec::new(), Rc::default()));
    lab.rest();
    let port = *lab.host.links.keys().last().unwrap();
    lab.world().ends[stream].output.clear();
    lab.world().shown.clear();
    lab.world().ends[stream].write_errors.push_back(Errno::MSGSIZE);
    let frames = [&[1; 200][..], &[2; 300], &[3; 400]].map(broadcast);
    let bytes: Vec<u8> = frames[..2].iter().flat_map(|frame| framed(frame)).collect();
    lab.world().arrive(link, &bytes);
    lab.rest();
    assert_eq!(lab.world().ends[stream].output, frames[1]);
    lab.world().arrive(link, &framed(&frames[2]));
    lab.rest();
    assert_eq!(lab.world().ends[stream].output, frames[1..].concat());
    let shown: Vec<_> = lab.world().shown.iter().filter(|shown| shown.0 == port).map(|shown| &shown.1[..]).collect();
    assert!(shown == frames, "{:?}", shown.iter().map(|frame| frame.len()).collect::<Vec<_>>());
}

#[test]
fn time_that_passes_within_a_turn_reaches_the_gateway() {
    let mut lab = Lab::new();
    lab.world().cost = Duration::from_micros(3);
    let (handle, stream) = lab.open();
    let (began, data) = (lab.world().now, pattern(1 << 20));
    lab.world().arrive(stream, &data);
    let mut got = Vec::new();
    lab.until("everything", |lab| {
        got.extend(lab.got(handle));
        got.len() == data.len()
    });
    assert!(got == data && lab.world().now > began);
    assert!(lab.host.counters.turn_nanoseconds >= 3 * 3000);
    assert_eq!(lab.host.counters.settles_cut, 0, "more than {PASSES} passes");
}
