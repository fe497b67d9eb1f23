// What the user may do, asked before it is offered.
import { useEffect, useState } from "react";
import type { Client } from "./api";

export interface Deed {
  verb: string;
  group: string;
  resource: string;
  subresource?: string;
  namespace?: string;
  name?: string;
}

/** useCan says whether the user may; null while that is being asked. */
export function useCan(client: Client, deed: Deed): boolean | null {
  const key = `can ${JSON.stringify(deed)}`;
  const [may, setMay] = useState<{ key: string; allowed: boolean } | null>(null);
  useEffect(() => {
    let gone = false;
    const body = {
      apiVersion: "authorization.k8s.io/v1",
      kind: "SelfSubjectAccessReview",
      spec: { resourceAttributes: JSON.parse(key.slice(4)) as Deed },
    };
    client
      .remember(key, () => client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body))
      .then(
        (review) => !gone && setMay({ key, allowed: Boolean(review.status?.allowed) }),
        () => !gone && setMay({ key, allowed: true }), // then the deed itself will tell
      );
    return () => {
      gone = true;
    };
  }, [client, key]);
  return may?.key === key ? may.allowed : null;
}
