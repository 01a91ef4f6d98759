//! The rules of roles and role bindings.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::metadata::{Scope, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::selector::label_selector;
use super::values::{one_of, required};
use super::{FieldError, Path};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role.
pub fn role(role: &Role) -> Vec<FieldError> {
    let mut errors = object_meta(&role.metadata, Scope::Namespaced, NameRule::PathSegment);
    rules(role.rules.as_deref().unwrap_or_default(), Scope::Namespaced, &mut errors);
    errors
}

/// Checks what a write changes in a role.
pub fn role_update(new: &Role, old: &Role) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a cluster role.
pub fn cluster_role(role: &ClusterRole) -> Vec<FieldError> {
    let mut errors = object_meta(&role.metadata, Scope::Cluster, NameRule::PathSegment);
    rules(role.rules.as_deref().unwrap_or_default(), Scope::Cluster, &mut errors);
    if let Some(aggregation) = &role.aggregation_rule {
        let path = Path::root("aggregationRule");
        let path = path.field("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.push(FieldError::required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (index, selector) in selectors.iter().enumerate() {
            label_selector(selector, &path.index(index), &mut errors);
        }
    }
    errors
}

/// Checks what a write changes in a cluster role.
pub fn cluster_role_update(new: &ClusterRole, old: &ClusterRole) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a role binding.
pub fn role_binding(binding: &RoleBinding) -> Vec<FieldError> {
    let mut errors = object_meta(&binding.metadata, Scope::Namespaced, NameRule::PathSegment);
    role_ref(&binding.role_ref, &["Role", "ClusterRole"], &mut errors);
    subjects(binding.subjects.as_deref().unwrap_or_default(), &mut errors);
    errors
}

/// Checks what a write changes in a role binding, whose role stays.
pub fn role_binding_update(new: &RoleBinding, old: &RoleBinding) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    same_role(&new.role_ref, &old.role_ref, &mut errors);
    errors
}

/// Checks a cluster role binding.
pub fn cluster_role_binding(binding: &ClusterRoleBinding) -> Vec<FieldError> {
    let mut errors = object_meta(&binding.metadata, Scope::Cluster, NameRule::PathSegment);
    role_ref(&binding.role_ref, &["ClusterRole"], &mut errors);
    subjects(binding.subjects.as_deref().unwrap_or_default(), &mut errors);
    errors
}

/// Checks what a write changes in a cluster role binding, whose role stays.
pub fn cluster_role_binding_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    same_role(&new.role_ref, &old.role_ref, &mut errors);
    errors
}

fn rules(rules: &[PolicyRule], scope: Scope, errors: &mut Vec<FieldError>) {
    let path = Path::root("rules");
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if rule.verbs.is_empty() {
            errors.push(FieldError::required(&path.field("verbs"), "verbs must contain at least one value"));
        }
        if !empty(&rule.non_resource_urls) {
            let urls = path.field("nonResourceURLs");
            if scope == Scope::Namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&urls, &rule.non_resource_urls, detail));
            }
            if !empty(&rule.api_groups) || !empty(&rule.resources) || !empty(&rule.resource_names) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(&urls, &rule.non_resource_urls, detail));
            }
            continue;
        }
        if empty(&rule.api_groups) {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(&path.field("apiGroups"), detail));
        }
        if empty(&rule.resources) {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(&path.field("resources"), detail));
        }
    }
}

fn role_ref(role: &RoleRef, kinds: &[&str], errors: &mut Vec<FieldError>) {
    let path = Path::root("roleRef");
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.field("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.field("kind"), &role.kind, kinds));
    }
    required(Some(&role.name), &path.field("name"), errors);
    invalid(&path.field("name"), &role.name, names::path_segment(&role.name), errors);
}

fn subjects(subjects: &[Subject], errors: &mut Vec<FieldError>) {
    let path = Path::root("subjects");
    for (index, subject) in subjects.iter().enumerate() {
        let path = path.index(index);
        required(Some(&subject.name), &path.field("name"), errors);
        one_of(Some(&subject.kind), &["ServiceAccount", "User", "Group"], &path.field("kind"), errors);
        let group = subject.api_group.as_deref().unwrap_or_default();
        let expected = if subject.kind == "ServiceAccount" { "" } else { GROUP };
        if group != expected {
            errors.push(FieldError::not_supported(&path.field("apiGroup"), group, &[expected]));
        }
        if subject.kind == "ServiceAccount" {
            if !subject.name.is_empty() {
                invalid(&path.field("name"), &subject.name, names::dns_1123_subdomain(&subject.name), errors);
            }
            required(subject.namespace.as_deref(), &path.field("namespace"), errors);
        }
    }
}

fn same_role(new: &RoleRef, old: &RoleRef, errors: &mut Vec<FieldError>) {
    if new != old {
        errors.push(FieldError::invalid(&Path::root("roleRef"), new, "cannot change roleRef"));
    }
}
