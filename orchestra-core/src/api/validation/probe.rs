//! The rules of probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};

use super::values::{non_negative, one_of, port, port_number, required};
use super::{FieldError, Path};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whether the container is to be restarted.
    Liveness,
    /// Whether the container is to be sent requests.
    Readiness,
    /// Whether the container has started.
    Startup,
}

/// Checks a probe.
pub(super) fn probe(probe: &Probe, kind: Kind, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let actions = Actions {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    actions.check(path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        non_negative(value, &path.field(field), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let path = path.field("terminationGracePeriodSeconds");
        if kind == Kind::Readiness {
            errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
        } else if seconds <= 0 {
            errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
        }
    }
    if let Some(threshold) = probe.success_threshold.filter(|threshold| kind != Kind::Readiness && *threshold > 1) {
        errors.push(FieldError::invalid(&path.field("successThreshold"), threshold, "must be 1"));
    }
}

/// Checks the hooks of a container.
pub(super) fn lifecycle(lifecycle: &Lifecycle, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(LifecycleHandler { exec, http_get, sleep, tcp_socket }) = hook {
            let actions = Actions {
                exec: exec.as_ref(),
                http_get: http_get.as_ref(),
                tcp_socket: tcp_socket.as_ref(),
                grpc: None,
                sleep: sleep.as_ref(),
            };
            actions.check(&path.field(field), errors);
        }
    }
}

struct Actions<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Actions<'_> {
    /// Checks that there is exactly one action, and that it is right.
    fn check(&self, path: &Path<'_>, errors: &mut Vec<FieldError>) {
        let mut count = 0;
        for (field, present) in [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ] {
            count += usize::from(present);
            if present && count > 1 {
                errors.push(FieldError::forbidden(&path.field(field), "may not specify more than 1 handler type"));
            }
        }
        if count == 0 {
            errors.push(FieldError::required(path, "must specify a handler type"));
        }
        if self.exec.is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
            errors.push(FieldError::required(&path.field("exec").field("command"), ""));
        }
        if let Some(action) = self.http_get {
            http_get(action, &path.field("httpGet"), errors);
        }
        if let Some(action) = self.tcp_socket {
            port(&action.port, &path.field("tcpSocket").field("port"), errors);
        }
        if let Some(action) = self.grpc {
            port_number(action.port, &path.field("grpc").field("port"), errors);
        }
        if let Some(action) = self.sleep {
            non_negative(Some(action.seconds), &path.field("sleep").field("seconds"), errors);
        }
    }
}

fn http_get(action: &HTTPGetAction, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    required(action.path.as_deref(), &path.field("path"), errors);
    port(&action.port, &path.field("port"), errors);
    one_of(action.scheme.as_deref(), &["HTTP", "HTTPS"], &path.field("scheme"), errors);
    let headers = path.field("httpHeaders");
    for (index, header) in action.http_headers.iter().flatten().enumerate() {
        let token = !header.name.is_empty()
            && header.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        if !token {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                 regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(FieldError::invalid(&headers.index(index).field("name"), &header.name, detail));
        }
    }
}
