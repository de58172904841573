//! At level `normal` the layer allocates nothing.

#[path = "../benches/support/mod.rs"]
mod support;

use overspill::Settings;
use support::{Asked, Site, exchange, overspill};
use tower_layer::Layer;

#[test]
fn the_layer_allocates_nothing_at_normal() {
    let overspill = overspill(Settings::default());
    let mut bare = Site::default();
    let mut wrapped = overspill.layer().layer(bare.clone());
    for asked in Asked::ALL {
        // What a thread sets up for itself the first time is no cost of a request.
        exchange(&mut wrapped, asked.request());
        let without = asked.request();
        let without = allocation_counter::measure(|| {
            assert!(exchange(&mut bare, without) > 0);
        });
        let with = asked.request();
        let with = allocation_counter::measure(|| {
            assert!(exchange(&mut wrapped, with) > 0);
        });
        assert!(without.count_total > 0, "the counter counts");
        assert_eq!(with.count_total, without.count_total, "{asked:?}");
        assert_eq!(with.bytes_total, without.bytes_total, "{asked:?}");
    }
}
