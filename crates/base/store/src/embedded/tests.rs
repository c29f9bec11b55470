//! The embedded store from inside: faults that only a false disk can show.
