//! Gives every namespace what each pod in it may count on: a `default` service account.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::Parts;
use crate::{
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

const DEFAULT: &str = "default";

struct ServiceAccounts {
    client: Client,
    namespaces: Lister<Namespace>,
    accounts: Lister<ServiceAccount>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (namespaces, accounts) = (parts.informers.of::<Namespace>(), parts.informers.of::<ServiceAccount>());
    let of_namespace = |change: &Change<ServiceAccount>| vec![ObjectKey::new("", change.key.namespace.clone())];
    parts.runner(controller(parts)).reconciles(&namespaces).watches(&accounts, of_namespace)
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    ServiceAccounts { client: parts.client.clone(), namespaces: parts.informers.of(), accounts: parts.informers.of() }
}

/// Whether a namespace lacks its account: it stands, and has none; pure.
fn lacks(namespace: Option<&Namespace>, account: Option<&ServiceAccount>) -> bool {
    namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none()) && account.is_none()
}

#[async_trait]
impl Controller for ServiceAccounts {
    fn name(&self) -> &str {
        "service-account"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.namespaces.synced().await;
        self.accounts.synced().await;
        let wanted = ObjectKey::new(key.name.clone(), DEFAULT);
        if lacks(self.namespaces.get(key).as_deref(), self.accounts.get(&wanted).as_deref()) {
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some(DEFAULT.into()), ..Default::default() },
                ..Default::default()
            };
            let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.name);
            match api.create(&PostParams::default(), &account).await {
                Ok(written) => self.accounts.shows(&written).await,
                // There already, or its namespace is going.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Action::AwaitChange)
    }
}
