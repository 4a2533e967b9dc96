//! Little's law as an identity: requests in the system, added up over time, are the stays added up over requests. For all of
//! them, and for each tenant's.

use std::collections::BTreeMap;

use super::ensure;
use crate::time::{Span, Time};
use crate::workload::TenantId;

/// Requests of one tenant: how many there are, and both sides of the law in picoseconds.
#[derive(Debug, Default)]
struct Account {
    present: u64,
    changed: Time,
    area: u128,
    stays: u128,
}

/// The accounts of all tenants that asked.
#[derive(Debug, Default)]
pub(super) struct Little {
    tenants: BTreeMap<TenantId, Account>,
}

impl Little {
    fn advance(&mut self, now: Time, tenant: TenantId) -> &mut Account {
        let account = self.tenants.entry(tenant).or_default();
        account.area += u128::from(account.present) * u128::from(now.since(account.changed).as_ps());
        account.changed = now;
        account
    }

    pub(super) fn came(&mut self, now: Time, tenant: TenantId) {
        self.advance(now, tenant).present += 1;
    }

    /// A request of the tenant is gone after so long a stay.
    pub(super) fn went(&mut self, now: Time, tenant: TenantId, stay: Span) -> Result<(), String> {
        let account = self.advance(now, tenant);
        account.present = account.present.checked_sub(1).ok_or("more requests of a tenant end than came")?;
        account.stays += u128::from(stay.as_ps());
        Ok(())
    }

    /// Does the law hold for every tenant?
    pub(super) fn check(&self) -> Result<(), String> {
        let broken = |(_, account): &(&TenantId, &Account)| account.area != account.stays || account.present > 0;
        let Some((tenant, account)) = self.tenants.iter().find(broken) else { return Ok(()) };
        ensure(false, || {
            format!(
                "Little's law for tenant {}: ∫N dt is {} ps, Σ sojourn is {} ps, and {} are left",
                tenant.0, account.area, account.stays, account.present
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stay_that_is_booked_to_another_tenant_breaks_the_law_of_both_and_not_of_all() {
        let (one, other) = (TenantId(1), TenantId(2));
        let at = |ps| Time::ZERO + Span::from_ps(ps);
        let mut little = Little::default();
        little.came(at(5), one);
        little.came(at(5), other);
        little.went(at(9), one, Span::from_ps(4)).unwrap();
        little.went(at(12), other, Span::from_ps(7)).unwrap();
        assert_eq!(little.check(), Ok(()));
        little.came(at(20), one);
        little.went(at(21), one, Span::from_ps(2)).unwrap();
        assert!(little.check().unwrap_err().contains("tenant 1: ∫N dt is 5 ps, Σ sojourn is 6 ps"));
        assert!(little.went(at(30), other, Span::ZERO).is_err());
    }
}
