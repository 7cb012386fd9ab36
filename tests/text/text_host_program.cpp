// A program that can only be a text process.
#include <cstdio>

#include "text/text_host.h"

int main(int argc, char** argv) {
    if (argc == 2 && argv[1] == text::kTextHostCommand) { return text::text_host_main(); }
    std::fprintf(stderr, "started by tests only\n");
    return 2;
}
