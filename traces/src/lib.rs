//! Files and distributions become a workload.
