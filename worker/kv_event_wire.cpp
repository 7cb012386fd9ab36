#include "worker/kv_event_wire.h"

#include <bit>
#include <cstddef>
#include <string_view>

#include "base/check.h"

namespace worker {
namespace {

/// Appends MessagePack to a text. Only what events need: no signed numbers, no extension types.
class Packer {
public:
    explicit Packer(std::string& out) : out_(out) {}

    void nil() { byte(0xc0); }
    void number(std::uint64_t value) {
        if (value < 0x80) {
            byte(static_cast<std::uint8_t>(value));
        } else if (value <= 0xff) {
            byte(0xcc);
            big_endian(value, 1);
        } else if (value <= 0xffff) {
            byte(0xcd);
            big_endian(value, 2);
        } else if (value <= 0xffff'ffff) {
            byte(0xce);
            big_endian(value, 4);
        } else {
            byte(0xcf);
            big_endian(value, 8);
        }
    }
    void real(double value) {
        byte(0xcb);
        big_endian(std::bit_cast<std::uint64_t>(value), 8);
    }
    void text(std::string_view value) {
        head(value.size(), 0xa0, 32, 0xd9);
        out_ += value;
    }
    void array(std::size_t elements) { head(elements, 0x90, 16, 0); }
    /// `pairs` names with values follow.
    void map(std::size_t pairs) { head(pairs, 0x80, 16, 0); }

private:
    /// `small`: the first byte of lengths below `small_end`, to which they are added; `one_byte`: that of lengths that
    /// take one byte, where the type has them.
    void head(std::size_t length, std::uint8_t small, std::size_t small_end, std::uint8_t one_byte) {
        CHECK(length <= 0xffff'ffff);
        const std::uint8_t two_bytes = small == 0xa0 ? 0xda : small == 0x90 ? 0xdc : 0xde;
        if (length < small_end) {
            byte(static_cast<std::uint8_t>(small | length));
        } else if (one_byte != 0 && length <= 0xff) {
            byte(one_byte);
            big_endian(length, 1);
        } else if (length <= 0xffff) {
            byte(two_bytes);
            big_endian(length, 2);
        } else {
            byte(static_cast<std::uint8_t>(two_bytes + 1));
            big_endian(length, 4);
        }
    }
    void byte(std::uint8_t value) { out_ += static_cast<char>(value); }
    void big_endian(std::uint64_t value, int bytes) {
        for (int i = bytes; i > 0; --i) {
            byte(static_cast<std::uint8_t>(value >> (8 * (i - 1))));
        }
    }

    std::string& out_;
};

void pack_names(Packer& packer, const std::vector<std::uint64_t>& names) {
    packer.text("block_hashes");
    packer.array(names.size());
    for (const std::uint64_t name : names) {
        packer.number(name);
    }
}

void pack_medium(Packer& packer, const KvEvent& event, const KvEventForm& form) {
    CHECK(event.level < form.mediums.size());
    packer.text("medium");
    packer.text(form.mediums[event.level]);
}

void pack_stored(Packer& packer, const KvEvent& event, const KvEventForm& form) {
    CHECK(event.tokens.size() == event.hashes.size() * form.block_tokens);
    packer.map(11);
    packer.text("type");
    packer.text("BlockStored");
    pack_names(packer, event.hashes);
    packer.text("parent_block_hash");
    event.parent ? packer.number(*event.parent) : packer.nil();
    packer.text("token_ids");
    packer.array(event.tokens.size());
    for (const base::TokenId token : event.tokens) {
        packer.number(static_cast<std::uint32_t>(token));
    }
    packer.text("block_size");
    packer.number(form.block_tokens);
    packer.text("lora_id");
    packer.nil();
    pack_medium(packer, event, form);
    packer.text("lora_name");
    packer.nil();
    // What else went into each block's name: of the first of a chain its scope, as vLLM's cache salt.
    packer.text("extra_keys");
    packer.array(event.hashes.size());
    for (std::size_t i = 0; i < event.hashes.size(); ++i) {
        if (i == 0 && !event.scope.empty()) {
            packer.array(1);
            packer.text(event.scope);
        } else {
            packer.nil();
        }
    }
    packer.text("group_idx");
    packer.number(0);
    packer.text("kv_cache_spec_kind");
    packer.text("full_attention");
}

void pack_removed(Packer& packer, const KvEvent& event, const KvEventForm& form) {
    packer.map(4);
    packer.text("type");
    packer.text("BlockRemoved");
    pack_names(packer, event.hashes);
    pack_medium(packer, event, form);
    packer.text("group_idx");
    packer.number(0);
}

}  // namespace

std::string kv_event_payload(const KvEventBatch& batch, const KvEventForm& form) {
    std::string payload;
    Packer packer(payload);
    packer.array(3);
    packer.real(static_cast<double>(batch.unix_us) / 1e6);
    packer.array(batch.events.size());
    for (const KvEvent& event : batch.events) {
        switch (event.kind) {
            case KvEvent::Kind::stored:
                pack_stored(packer, event, form);
                break;
            case KvEvent::Kind::removed:
                pack_removed(packer, event, form);
                break;
            case KvEvent::Kind::cleared:
                packer.map(1);
                packer.text("type");
                packer.text("AllBlocksCleared");
                break;
        }
    }
    packer.number(form.rank);
    return payload;
}

}  // namespace worker
