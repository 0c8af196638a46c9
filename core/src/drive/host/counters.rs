//! What the data thread counts beyond what the gateway does.

crate::counters! {
    /// Descriptors and what the kernel refused.
    pub struct HostCounters {
        /// Streams of frames now.
        links: Gauge "nitrotap_host_streams" {},
        /// Streams of frames that came and went.
        attached: Counter "nitrotap_host_streams_attached" {},
        /// Frames shorter than 14 bytes, which were skipped.
        runts: Counter "nitrotap_host_runts" {},
        /// Streams that were closed because a length was beyond every limit.
        broken: Counter "nitrotap_host_streams_broken" {},
        /// Streams refused because there were too many.
        refused_links: Counter "nitrotap_host_streams_refused" {},
        /// Connections to the world, by result.
        dialed: Counter "nitrotap_host_dials" { result = "connected" },
        /// Connections to the world, by result.
        dial_refused: Counter "nitrotap_host_dials" { result = "refused" },
        /// Connections to the world, by result.
        dial_unreachable: Counter "nitrotap_host_dials" { result = "unreachable" },
        /// Connections to the world, by result.
        dial_failed: Counter "nitrotap_host_dials" { result = "failed" },
        /// Connections accepted on published ports.
        accepted: Counter "nitrotap_host_accepted" {},
        /// Connections on published ports that were closed at once, since the gateway had no room or no such guest.
        accept_refused: Counter "nitrotap_host_accept_refused" {},
        /// Sockets that could not be made, for want of descriptors or of permission.
        no_socket: Counter "nitrotap_host_sockets_failed" {},
        /// Pings that were refused by this host's kernel: see net.ipv4.ping_group_range.
        pings_refused: Counter "nitrotap_host_pings_refused" {},
        /// Datagrams that the kernel did not take.
        datagrams_refused: Counter "nitrotap_host_datagrams_refused" {},
        /// Questions to the name server that were dropped because too many waited.
        questions_dropped: Counter "nitrotap_host_questions_dropped" {},
        /// Blocks of the capture that the disk was too slow for.
        capture_lost: Counter "nitrotap_host_capture_blocks_lost" {},
        /// Connections to the world that got no port of this host, since all were in use for that destination.
        dial_no_port: Counter "nitrotap_host_dials_without_port" {},
        /// Times that the kernel had no memory for a read or a write, which is tried again.
        shortages: Counter "nitrotap_host_shortages" {},
        /// Sockets of datagram sessions that were replaced because the host's addresses or routes had changed.
        sockets_replaced: Counter "nitrotap_host_sockets_replaced" {},
        /// Times the loop went round.
        turns: Counter "nitrotap_host_turns" {},
        /// The most work in one turn of the loop so far, in units of a frame.
        turn_work: Gauge "nitrotap_host_turn_work_max" {},
        /// The longest turn of the loop so far, in nanoseconds.
        turn_nanoseconds: Gauge "nitrotap_host_turn_nanoseconds_max" {},
        /// Times that a tenant had used its share of a turn and had to wait for the next one.
        turns_over: Counter "nitrotap_host_turns_over" {},
        /// Times that a turn of the loop left connections for the next one, because they did not come to rest.
        settles_cut: Counter "nitrotap_host_turns_cut" {},
        /// Clients of published UDP ports that were told that their guest has nobody there.
        askers_refused: Counter "nitrotap_host_askers_refused" {},
        /// Times that a published port left connections in its backlog because the guest had yet to answer many others.
        accepts_held: Counter "nitrotap_host_accepts_held" {},
    }
}
