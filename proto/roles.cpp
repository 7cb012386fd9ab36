#include "proto/roles.h"

#include <array>

namespace sluice::proto {
namespace {

struct RoleRow {
    Role role;
    WorkerRole message;
    std::string_view name;
};

constexpr std::array<RoleRow, kRoles> kRows = {{
    {Role::prefill, WORKER_ROLE_PREFILL, "prefill"},
    {Role::decode, WORKER_ROLE_DECODE, "decode"},
    {Role::mixed, WORKER_ROLE_MIXED, "mixed"},
    {Role::encode, WORKER_ROLE_ENCODE, "encode"},
}};

const RoleRow& row_of(Role role) {
    return kRows[static_cast<std::size_t>(role)];
}

}  // namespace

std::string_view role_name(Role role) {
    return row_of(role).name;
}

WorkerRole role_message(Role role) {
    return row_of(role).message;
}

std::optional<Role> role_of(WorkerRole role) {
    for (const RoleRow& row : kRows) {
        if (row.message == role) { return row.role; }
    }
    return std::nullopt;
}

}  // namespace sluice::proto
