//! The measurement of many connections, with few of them: that it measures what it says, not how fast anything is.

use nitrotap_tests::{
    flows::measure::{Plan, measure},
    for_every_host,
    gateway::Kind,
    require,
};

for_every_host! {
    hundreds_of_connections_made_by_hand_stand_and_echo,
}

fn hundreds_of_connections_made_by_hand_stand_and_echo(host: Kind) {
    let gateway = require!(host.start());
    let plan = Plan { many: 300, active: 100, packets: 3000, ..Plan::default() };
    let [few, some, many] = measure(&gateway, plan);
    assert_eq!((few.flows, few.active), (plan.few, plan.few));
    assert_eq!((some.flows, some.active), (plan.many, plan.active));
    assert_eq!((many.flows, many.active), (plan.many, plan.many));
    for figures in [few, some, many] {
        assert!(figures.openings > 0.0 && figures.echoes > 0.0, "{figures:?}");
        assert!(figures.processor.is_finite() && figures.processor >= 0.0, "{figures:?}");
    }
}
