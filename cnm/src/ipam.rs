//! Address management: pools as iterators, leases, reservations, quarantine.
