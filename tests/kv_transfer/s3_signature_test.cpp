// Signature Version 4 against the examples that AWS publishes.
#include "kv_transfer/tier/s3_signature.h"

#include <span>
#include <string>
#include <string_view>

#include "tests/support/catch.h"

using kv_transfer::s3_authorization;
using kv_transfer::s3_time;
using kv_transfer::S3Credentials;
using kv_transfer::S3SignedParts;
using kv_transfer::S3SigningScope;
using kv_transfer::sha256_hex;
using kv_transfer::uri_encode;

namespace {

const std::string kEmptySha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
// Of "Authenticating Requests: Using the Authorization Header" in the S3 API reference.
const S3Credentials kS3Credentials{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};
const S3SigningScope kS3Scope{"us-east-1", "s3", "20130524T000000Z"};
const std::string kBucket = "examplebucket.s3.amazonaws.com";
const std::string kS3Begin =
    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=";

std::string sha256_of(std::string_view text) {
    return sha256_hex(std::as_bytes(std::span(text)));
}

}  // namespace

TEST_CASE("requests of AWS's S3 examples get the signatures that AWS publishes", "[kv_transfer]") {
    SECTION("get an object, a range of it") {
        const S3SignedParts parts{"GET",
                                  "/test.txt",
                                  "",
                                  {{"host", kBucket},
                                   {"range", "bytes=0-9"},
                                   {"x-amz-content-sha256", kEmptySha256},
                                   {"x-amz-date", kS3Scope.time}},
                                  kEmptySha256};
        REQUIRE(s3_authorization(parts, kS3Credentials, kS3Scope) ==
                kS3Begin +
                    "host;range;x-amz-content-sha256;x-amz-date, "
                    "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    }
    SECTION("put an object whose key is encoded") {
        const std::string hash = sha256_of("Welcome to Amazon S3.");
        REQUIRE(hash == "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
        const std::string path = uri_encode("/test$file.text", true);
        const S3SignedParts parts{"PUT",
                                  path,
                                  "",
                                  {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                   {"host", kBucket},
                                   {"x-amz-content-sha256", hash},
                                   {"x-amz-date", kS3Scope.time},
                                   {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
                                  hash};
        REQUIRE(s3_authorization(parts, kS3Credentials, kS3Scope) ==
                kS3Begin +
                    "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, "
                    "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
    }
    const auto of_query = [](std::string_view query) {
        return S3SignedParts{"GET",
                             "/",
                             query,
                             {{"host", kBucket}, {"x-amz-content-sha256", kEmptySha256}, {"x-amz-date", kS3Scope.time}},
                             kEmptySha256};
    };
    SECTION("a query without a value") {
        REQUIRE(s3_authorization(of_query("lifecycle="), kS3Credentials, kS3Scope) ==
                kS3Begin +
                    "host;x-amz-content-sha256;x-amz-date, "
                    "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    }
    SECTION("a list") {
        REQUIRE(s3_authorization(of_query("max-keys=2&prefix=J"), kS3Credentials, kS3Scope) ==
                kS3Begin +
                    "host;x-amz-content-sha256;x-amz-date, "
                    "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }
}

TEST_CASE("get-vanilla of AWS's test suite for Signature Version 4 comes out", "[kv_transfer]") {
    const S3SignedParts parts{
        "GET", "/", "", {{"host", "example.amazonaws.com"}, {"x-amz-date", "20150830T123600Z"}}, kEmptySha256};
    REQUIRE(s3_authorization(parts, {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"},
                             {"us-east-1", "service", "20150830T123600Z"}) ==
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
            "SignedHeaders=host;x-amz-date, "
            "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
}

TEST_CASE("times and texts are written as signatures want them", "[kv_transfer]") {
    REQUIRE(s3_time(1'369'353'600) == "20130524T000000Z");
    REQUIRE(s3_time(0) == "19700101T000000Z");
    REQUIRE(sha256_of("") == kEmptySha256);
    REQUIRE(uri_encode("a-b_c.d~e/f g\xc3\xa4%", false) == "a-b_c.d~e%2Ff%20g%C3%A4%25");
    REQUIRE(uri_encode("a/b c", true) == "a/b%20c");
}
